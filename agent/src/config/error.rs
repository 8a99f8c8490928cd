//! What is wrong with a configuration, in terms of files, lines and keys.

use std::path::{Path, PathBuf};

/// A configuration that cannot be used; the one in use, if any, stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path}, line {line}: {message}", path = path.display())]
    Parse {
        path: PathBuf,
        line: usize,
        message: String,
    },
    #[error("{key}: {value:?}: {problem}")]
    Value {
        key: &'static str,
        value: String,
        problem: String,
    },
}

impl ConfigError {
    /// Adds file, line and, for an unknown key, the nearest known one.
    pub(super) fn parse(path: &Path, text: &str, error: &toml::de::Error) -> Self {
        let offset = error.span().map_or(0, |span| span.start);
        let before = text.get(..offset).unwrap_or_default();
        let mut message = error.message().trim().replace('\n', "; ");
        if let Some(nearest) = nearest_key(&message) {
            message.push_str(&format!("; did you mean `{nearest}`?"));
        }
        Self::Parse {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            message,
        }
    }
}

/// Of serde's "unknown field `x`, expected one of `a`, `b`": the one that looks most like x.
fn nearest_key(message: &str) -> Option<String> {
    let rest = message.strip_prefix("unknown field ")?;
    let mut quoted = rest.split('`').skip(1).step_by(2);
    let unknown = quoted.next()?;
    quoted
        .map(|known| (strsim::damerau_levenshtein(unknown, known), known))
        .filter(|(distance, known)| *distance <= known.len().div_ceil(2))
        .min()
        .map(|(_, known)| known.to_owned())
}
