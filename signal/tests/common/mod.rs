//! The real server on loopback, for the tests in this folder.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses its own part of this"
)]

pub mod forwarder;
pub mod nats;
pub mod program;
pub mod turn;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use wice_signal::{Options, Server, ServerError, TlsFiles};

/// Long enough for any machine; nothing here waits for it but a failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const ONE: &str = "0123456789abcdef0123456789abcdef01234567";
pub const TWO: &str = "ffffffffffffffffffffffffffffffffffffffff";

/// A running server. Ends when it is dropped.
pub struct Running {
    pub scheme: &'static str,
    pub http: SocketAddr,
    pub stun: Vec<SocketAddr>,
    pub metrics: Option<SocketAddr>,
    pub turn: Vec<SocketAddr>,
    pub turn_tls: Vec<SocketAddr>,
    pub client: reqwest::Client,
    nats: Option<nats::Node>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), ServerError>>,
}

impl Running {
    /// Starts a server with these options, on a free port of loopback; in the program `on_nats` over a NATS server of its
    /// own.
    pub async fn start(mut options: Options) -> Self {
        if env!("CARGO_CRATE_NAME") != "on_nats" {
            return Self::start_as_is(options).await;
        }
        let node = nats::Node::start();
        options.store = Some(nats::options(&[&node]));
        let mut server = Self::start_as_is(options).await;
        server.nats = Some(node);
        server.ready().await;
        server
    }

    /// Starts a server with these options, and the store in them.
    pub async fn start_as_is(mut options: Options) -> Self {
        options.listen = vec!["127.0.0.1:0".parse().expect("an address")];
        let server = Server::bind(options).await.expect("the server binds");
        let (stop, stopped) = oneshot::channel();
        let http = server.local_addrs()[0];
        let stun = server.stun_addrs();
        let metrics = server.metrics_addr();
        let turn = server.turn_addrs();
        let turn_tls = server.turn_tls_addrs();
        let task = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        Self {
            scheme: "http",
            http,
            stun,
            metrics,
            turn,
            turn_tls,
            client: client(),
            nats: None,
            stop: Some(stop),
            task,
        }
    }

    /// The same over HTTPS.
    pub async fn start_tls(options: Options) -> Self {
        let certificate = options.tls.as_ref().map(|tls| fs::read(&tls.cert));
        let certificate = certificate.expect("TLS").expect("a certificate");
        let mut server = Self::start(options).await;
        let certificate = reqwest::Certificate::from_pem(&certificate).expect("PEM");
        server.client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([certificate])
            .build()
            .expect("a client");
        server.scheme = "https";
        server
    }

    /// Waits until the server says that it is ready.
    pub async fn ready(&self) {
        soon(async {
            while self.get(self.url("/readyz")).await.status() != 200 {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }

    /// Waits until the server says that it is not ready, and why.
    pub async fn unready(&self) -> String {
        soon(async {
            loop {
                let answer = self.get(self.url("/readyz")).await;
                if answer.status() == 503 {
                    return answer.text().await.expect("a reason");
                }
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.http)
    }

    pub fn mailbox(&self, name: &str) -> String {
        self.url(&format!("/v1/mailboxes/{name}"))
    }

    /// Writes a message as an agent does.
    pub async fn put(&self, name: &str, message: impl Into<reqwest::Body>) -> reqwest::Response {
        let request = self.client.put(self.mailbox(name));
        let request = request.header("content-type", "application/jose");
        soon(request.body(message).send()).await.expect("an answer")
    }

    pub async fn get(&self, url: String) -> reqwest::Response {
        soon(self.client.get(url).send()).await.expect("an answer")
    }

    pub async fn poll(&self, question: serde_json::Value) -> reqwest::Response {
        let request = self.client.post(self.url("/v1/poll")).json(&question);
        soon(request.send()).await.expect("an answer")
    }

    /// Tells the server to stop, and waits until it has.
    pub async fn stop(mut self) {
        self.stop
            .take()
            .expect("stopped once")
            .send(())
            .expect("it runs");
        soon(&mut self.task)
            .await
            .expect("no panic")
            .expect("a clean end");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An HTTP client with the provider that the workspace uses.
pub fn client() -> reqwest::Client {
    // Fails when another test of this program was first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .build()
        .expect("a client")
}

/// Waits for what must come, within a generous time.
pub async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("it comes in time")
}

/// The request that opens a WebSocket, as an agent makes it.
pub fn upgrade(server: SocketAddr) -> Request {
    let url = format!("ws://{server}/v1/websocket");
    let mut request = url.into_client_request().expect("a URL");
    let protocol = HeaderValue::from_static("wice.1");
    request
        .headers_mut()
        .insert("sec-websocket-protocol", protocol);
    request
}

/// The value of a header, or nothing.
pub fn header(response: &reqwest::Response, name: &str) -> String {
    let value = response.headers().get(name);
    value.map_or_else(String::new, |value| {
        value.to_str().unwrap_or("?").to_owned()
    })
}

/// A port of loopback for a program that cannot say which it took. Below those that the system gives to clients, one of which could
/// have it before the program.
pub fn free_port() -> u16 {
    loop {
        let port = 10_000 + (getrandom::u32().expect("random bytes") % 20_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A folder that is gone with the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let name = format!("wice-signal-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a new folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A new key and a certificate for it, in place of those before.
pub fn certify(folder: &Path) -> TlsFiles {
    let files = TlsFiles {
        cert: folder.join("cert.pem"),
        key: folder.join("key.pem"),
    };
    let mut openssl = Command::new("openssl");
    openssl
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=localhost", "-addext"])
        .arg("subjectAltName=DNS:localhost,IP:127.0.0.1")
        // A certificate that is its own authority is refused as a server's.
        .args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    openssl.arg("-keyout").arg(&files.key);
    openssl.arg("-out").arg(&files.cert);
    openssl.stdout(Stdio::null()).stderr(Stdio::null());
    let status = openssl.status().expect("openssl is installed");
    assert!(status.success());
    files
}
