//! TLS for HTTP and TURN, with a certificate that can be replaced while serving.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::options::TlsFiles;

/// The certificate in use, and where it came from.
#[derive(Clone)]
pub struct Tls {
    files: TlsFiles,
    config: Arc<RwLock<Arc<ServerConfig>>>,
    turn: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Tls {
    /// Reads certificate and key.
    pub(crate) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let config = configure(&files)?;
        let turn = Arc::new(RwLock::new(Arc::new(for_turn(config.clone()))));
        let config = Arc::new(RwLock::new(Arc::new(config)));
        Ok(Self {
            files,
            config,
            turn,
        })
    }

    /// Reads certificate and key again; connections made from then on use them. After an error the old ones stay.
    pub fn reload(&self) -> Result<(), TlsError> {
        let new = configure(&self.files)?;
        let turn = Arc::new(for_turn(new.clone()));
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        *self.turn.write().unwrap_or_else(PoisonError::into_inner) = turn;
        Ok(())
    }

    /// What a new connection shakes hands with.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&config))
    }
}

/// RFC 7443; a client that names no protocol is served too.
const TURN_PROTOCOL: &[u8] = b"stun.turn";

impl Tls {
    /// What a new TURN connection shakes hands with.
    pub(crate) fn turn_acceptor(&self) -> TlsAcceptor {
        let config = self.turn.read().unwrap_or_else(PoisonError::into_inner);
        TlsAcceptor::from(Arc::clone(&config))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate file cannot be read or holds none.
    #[error("cannot read a certificate from {}: {source}; it must be PEM, the server's own certificate first", path.display())]
    Certificate {
        /// What was read.
        path: PathBuf,
        /// What came back.
        source: pem::Error,
    },
    /// The key file cannot be read or holds none.
    #[error("cannot read a private key from {}: {source}; it must be PEM without a passphrase", path.display())]
    Key {
        /// What was read.
        path: PathBuf,
        /// What came back.
        source: pem::Error,
    },
    /// They were read and do not belong together, or are of a kind that is not supported.
    #[error("certificate {} and key {} cannot be used: {source}", cert.display(), key.display())]
    Unusable {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
}

fn for_turn(mut config: ServerConfig) -> ServerConfig {
    config.alpn_protocols = vec![TURN_PROTOCOL.to_vec()];
    config
}

fn configure(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let certificate = |source| TlsError::Certificate {
        path: files.cert.clone(),
        source,
    };
    let unusable = |source| TlsError::Unusable {
        cert: files.cert.clone(),
        key: files.key.clone(),
        source,
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(&files.cert)
        .map_err(certificate)?
        .collect::<Result<_, _>>()
        .map_err(certificate)?;
    if chain.is_empty() {
        return Err(certificate(pem::Error::NoItemsFound));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| TlsError::Key {
        path: files.key.clone(),
        source,
    })?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
