//! The bearer tokens that a private server asks for.
//!
//! Reads them and compares them; never prints one.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// A bearer token (RFC 6750), wiped from memory when dropped.
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// Takes the token from text, without the white space around it. Fails when nothing is left, or
    /// when a character in it cannot stand in an HTTP header.
    pub fn new(text: &str) -> Result<Self, InvalidToken> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidToken);
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// The token itself, for whoever asks this server for it.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `given` is this token. The time depends on the length of `given` only.
    pub(crate) fn matches(&self, given: &[u8]) -> bool {
        let own = self.0.as_bytes();
        let mut difference = u8::from(own.len() != given.len());
        for (index, byte) in given.iter().enumerate() {
            difference |= byte ^ own[index % own.len()];
        }
        std::hint::black_box(difference) == 0
    }
}

/// Which of the tokens of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TokenId(usize);

/// The tokens that a server takes: one for each group of clients that is to have limits of its own.
#[derive(Debug, Clone)]
pub struct Tokens(Vec<Token>);

impl From<Token> for Tokens {
    fn from(token: Token) -> Self {
        Self(vec![token])
    }
}

impl Tokens {
    /// Reads the tokens from a file that holds nothing else, one a line.
    pub fn read(path: &Path) -> Result<Self, TokenError> {
        let text = fs::read_to_string(path).map(Zeroizing::new);
        let text = text.map_err(|source| TokenError::Read {
            path: path.to_owned(),
            source,
        })?;
        let lines = text.trim().lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty()).map(Token::new);
        let tokens = lines.collect::<Result<Vec<_>, _>>();
        tokens
            .and_then(|tokens| {
                if tokens.is_empty() {
                    Err(InvalidToken)
                } else {
                    Ok(Self(tokens))
                }
            })
            .map_err(|source| TokenError::Invalid {
                path: path.to_owned(),
                source,
            })
    }

    /// Which token `given` is, if any. The time depends on the length of `given` and the number of tokens only.
    pub(crate) fn find(&self, given: &[u8]) -> Option<TokenId> {
        let matching = self
            .0
            .iter()
            .enumerate()
            .filter(|(_, token)| token.matches(given));
        matching.fold(None, |found, (index, _)| found.or(Some(TokenId(index))))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Text that cannot be a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a token is one line of visible ASCII characters without spaces; there may be several, one a line"
)]
pub struct InvalidToken;

/// A file that gives no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error(
        "cannot read the token from {}: {source}; check that it exists and that this user may read it",
        path.display()
    )]
    Read {
        /// What was read.
        path: PathBuf,
        /// What came back.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{} does not hold tokens alone: {source}", path.display())]
    Invalid {
        /// What was read.
        path: PathBuf,
        /// What is wrong with it.
        source: InvalidToken,
    },
}
