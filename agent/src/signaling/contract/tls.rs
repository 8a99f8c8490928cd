//! Backends over TLS: they trust what the system trusts, and nothing else.

use std::path::{Path, PathBuf};
use std::process::Command;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wice_signal::{Options, Server, TlsFiles};

use super::super::BackendState;
use super::site::{Agent, config};

/// Set where the test runs itself again with other trusted certificates.
const AGAIN: &str = "WICE_TEST_TRUSTING";

#[tokio::test]
async fn a_certificate_that_the_system_trusts_opens_https_and_wss() {
    let Some(files) = std::env::var_os(AGAIN) else {
        let files = Certificate::new("trusted");
        // What the system trusts is read from the environment, which a running process should not change.
        let name =
            "signaling::contract::tls::a_certificate_that_the_system_trusts_opens_https_and_wss";
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(AGAIN, &files.0)
            .env("SSL_CERT_FILE", files.0.join("cert.pem"))
            .output()
            .unwrap();
        assert!(
            output.status.success() && String::from_utf8_lossy(&output.stdout).contains("1 passed"),
            "{output:?}"
        );
        return;
    };
    let server = Secure::start(Path::new(&files)).await;
    let mut alice = Agent::new(vec![config(server.url("https"))]);
    let mut bob = Agent::new(vec![config(server.url("wss"))]);
    bob.subscribe(1);
    alice.subscribe(2);
    for round in 0..3 {
        let text = format!("message {round}");
        alice.publish(1, &text);
        bob.until(1, &text).await;
        bob.publish(2, &text);
        alice.until(2, &text).await;
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_trusts_is_an_error() {
    let files = Certificate::new("untrusted");
    let server = Secure::start(&files.0).await;
    for scheme in ["https", "wss"] {
        let mut alice = Agent::new(vec![config(server.url(scheme))]);
        alice.publish(1, "hello");
        let error = alice.state(BackendState::Failed).await.error.unwrap();
        assert!(error.contains("certificate"), "{error}");
    }
}

/// A directory with a certificate for 127.0.0.1 and its key; gone when dropped.
struct Certificate(PathBuf);

impl Certificate {
    fn new(name: &str) -> Self {
        let directory = format!("wice-signaling-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(directory);
        std::fs::create_dir(&directory).unwrap();
        let certificate = Self(directory);
        let output = Command::new("openssl")
            .current_dir(&certificate.0)
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
            ])
            .args([
                "-nodes", "-days", "2", "-subj", "/CN=wice", "-keyout", "key.pem",
            ])
            .args(["-out", "cert.pem", "-addext", "subjectAltName=IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .output()
            .expect("openssl is installed");
        assert!(output.status.success(), "{output:?}");
        certificate
    }
}

impl Drop for Certificate {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The real server with TLS.
struct Secure {
    port: u16,
    _stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Secure {
    async fn start(files: &Path) -> Self {
        let server = Server::bind(Options {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            tls: Some(TlsFiles {
                cert: files.join("cert.pem"),
                key: files.join("key.pem"),
            }),
            ..Options::default()
        });
        // As `main` does it; only the first call in a process has an effect.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let server = server.await.unwrap();
        let port = server.local_addrs()[0].port();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            server.run(stopped).await.unwrap();
        });
        Self {
            port,
            _stop: stop,
            task,
        }
    }

    fn url(&self, scheme: &str) -> url::Url {
        format!("{scheme}://127.0.0.1:{}", self.port)
            .parse()
            .unwrap()
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        self.task.abort();
    }
}
