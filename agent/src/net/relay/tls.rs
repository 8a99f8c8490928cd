//! TLS towards TURN servers: the system's authorities, one provider.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::problem::Problem;

/// Begins a connection to the host of this name.
pub(super) fn begin(host: &str, config: Arc<ClientConfig>) -> Result<ClientConnection, Problem> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| Problem::NoServerName)?;
    let mut connection = ClientConnection::new(config, name).map_err(|_| Problem::NoServerName)?;
    // What may wait is limited where it is counted in packets.
    connection.set_buffer_limit(None);
    Ok(connection)
}

/// Reads the authorities that this system trusts, or SSL_CERT_FILE and SSL_CERT_DIR name.
pub(super) fn config() -> Result<Arc<ClientConfig>, Problem> {
    let mut roots = RootCertStore::empty();
    let (known, _) =
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if known == 0 {
        return Err(Problem::NoRoots);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider speaks every version that is built in")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
