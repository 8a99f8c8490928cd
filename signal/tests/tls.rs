//! TLS with a certificate made by openssl, and its replacement while the server runs.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{Folder, certify, soon};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use wice_signal::{Options, Server, ServerError, TlsError, TlsFiles};

fn options(files: &TlsFiles) -> Options {
    Options {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        tls: Some(files.clone()),
        ..Options::default()
    }
}

/// Whether a client that trusts the certificate in `file`, and no other, gets through; and in which HTTP.
async fn trusted(server: std::net::SocketAddr, file: &Path) -> Option<Vec<u8>> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(file).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = TcpStream::connect(server).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let stream = soon(connector.connect(name, stream)).await.ok()?;
    Some(stream.get_ref().1.alpn_protocol()?.to_vec())
}

#[tokio::test]
async fn https_is_served_and_a_new_certificate_taken_without_a_restart() {
    let folder = Folder::new("tls");
    let files = certify(&folder.0);
    let old = folder.0.join("old.pem");
    fs::copy(&files.cert, &old).unwrap();
    let server = Server::bind(options(&files)).await.unwrap();
    let address = server.local_addrs()[0];
    let tls = server.tls().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(server.run(async {
        let _ = stopped.await;
    }));

    assert_eq!(trusted(address, &old).await.unwrap(), b"h2");
    certify(&folder.0);
    tls.reload().unwrap();
    assert_eq!(trusted(address, &old).await, None);
    assert!(trusted(address, &files.cert).await.is_some());

    fs::write(&files.key, "nothing").unwrap();
    let error = tls.reload().unwrap_err();
    assert!(error.to_string().contains("key.pem"), "{error}");
    assert!(trusted(address, &files.cert).await.is_some());

    let _client = common::client();
    let certificate = fs::read(&files.cert).unwrap();
    let client = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([reqwest::Certificate::from_pem(&certificate).unwrap()])
        .build()
        .unwrap();
    let url = format!("https://{address}/healthz");
    let answer = soon(client.get(url).send()).await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    assert_eq!(answer.version(), reqwest::Version::HTTP_2);

    stop.send(()).unwrap();
    soon(task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_certificate_of_another_key_is_refused_at_the_start() {
    let folder = Folder::new("mismatch");
    let files = certify(&folder.0);
    let kept = fs::read(&files.key).unwrap();
    certify(&folder.0);
    fs::write(&files.key, kept).unwrap();
    let error = Server::bind(options(&files)).await.unwrap_err();
    assert!(matches!(error, ServerError::Tls(TlsError::Unusable { .. })));
}
