//! Behind the reverse proxies that docs/signal.md tells of, set up as it says.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Folder, ONE, Running, TWO, free_port, soon, upgrade};
use futures_util::{SinkExt, StreamExt};
use reqwest::StatusCode;
use serde_json::json;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::sleep;
use tokio_tungstenite::tungstenite::Message;
use wice_signal::{Limits, Options};

const PAGE: &str = include_str!("../../docs/signal.md");

/// The block of the page in this language.
fn documented(language: &str) -> String {
    let (_, rest) = PAGE.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// A proxy in front of a server, without TLS; killed when dropped.
struct Proxy {
    child: Child,
    address: SocketAddr,
    _folder: Folder,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    async fn nginx(server: &Running) -> Self {
        let (address, folder) = (free_address(), Folder::new("nginx"));
        let block = documented("nginx")
            .replace("listen 443 ssl;", &format!("listen {address};"))
            .replace("127.0.0.1:8080", &server.http.to_string());
        let plain = block
            .lines()
            .filter(|line| !line.contains("ssl_certificate"));
        let block: Vec<&str> = plain.collect();
        let home = folder.0.display();
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let paths = paths.map(|kind| format!("{kind}_temp_path {home}/{kind};"));
        let whole = format!(
            "daemon off; master_process off; pid {home}/pid; error_log {home}/error.log;\nevents {{}}\n\
             http {{ access_log off; {}\n{} }}\n",
            paths.join(" "),
            block.join("\n")
        );
        let file = folder.0.join("nginx.conf");
        fs::write(&file, whole).unwrap();
        let mut command = Command::new(find("nginx"));
        command.args(["-e", "stderr", "-c"]).arg(file);
        Self::start(command, address, folder).await
    }

    async fn caddy(server: &Running) -> Self {
        let (address, folder) = (free_address(), Folder::new("caddy"));
        let block = documented("caddy")
            .replace("wice.example.com", &format!("http://{address}"))
            .replace("127.0.0.1:8080", &server.http.to_string());
        let file = folder.0.join("Caddyfile");
        fs::write(&file, format!("{{\n admin off\n}}\n{block}")).unwrap();
        let mut command = Command::new(find("caddy"));
        command
            .args(["run", "--adapter", "caddyfile", "--config"])
            .arg(file);
        for home in ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
            command.env(home, &folder.0);
        }
        Self::start(command, address, folder).await
    }

    async fn start(mut command: Command, address: SocketAddr, folder: Folder) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("tests/setup installs it");
        soon(async {
            while TcpStream::connect(address).await.is_err() {
                assert!(child.try_wait().unwrap().is_none(), "{command:?} ended");
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        Self {
            child,
            address,
            _folder: folder,
        }
    }

    /// Writes a mailbox from an address of loopback, claiming to be somebody else's proxy.
    async fn put(&self, from: [u8; 4], mailbox: &str) -> reqwest::Response {
        let client = reqwest::Client::builder()
            .no_proxy()
            .local_address(Some(from.into()));
        let url = format!("http://{}/v1/mailboxes/{mailbox}", self.address);
        let request = client.build().unwrap().put(url).body("sealed");
        let request = request
            .header("content-type", "application/jose")
            .header("x-forwarded-for", "198.51.100.1")
            .header("forwarded", "for=198.51.100.1");
        soon(request.send()).await.unwrap()
    }
}

fn find(name: &str) -> String {
    let folders = ["/usr/sbin", "/usr/bin", "/usr/local/bin"];
    let mut paths = folders.iter().map(|folder| format!("{folder}/{name}"));
    paths
        .find(|path| Path::new(path).exists())
        .unwrap_or_else(|| name.to_owned())
}

fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

async fn server() -> Running {
    Running::start(Options {
        trusted_proxies: vec!["127.0.0.1/32".parse().unwrap()],
        limits: Limits {
            mailboxes_per_address: 1,
            connections_per_address: 1,
            ..Limits::default()
        },
        ..Options::default()
    })
    .await
}

async fn clients_are_told_apart(proxy: &Proxy) {
    let [left, right] = [[127, 4, 4, 1], [127, 4, 4, 2]];
    assert_eq!(proxy.put(left, ONE).await.status(), StatusCode::NO_CONTENT);
    let more = proxy.put(left, TWO).await;
    assert_eq!(more.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(proxy.put(right, TWO).await.status(), StatusCode::NO_CONTENT);
}

async fn a_websocket_and_a_long_poll_pass(proxy: &Proxy) {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind((Ipv4Addr::new(127, 4, 4, 3), 0).into())
        .unwrap();
    let stream = soon(socket.connect(proxy.address)).await.unwrap();
    let opened = tokio_tungstenite::client_async(upgrade(proxy.address), stream);
    let (mut reader, _) = soon(opened).await.unwrap();
    let subscribe = json!({"op": "subscribe", "mailboxes": [ONE]}).to_string();
    soon(reader.send(Message::text(subscribe))).await.unwrap();
    loop {
        let frame = soon(reader.next()).await.unwrap().unwrap();
        if matches!(&frame, Message::Text(text) if text.contains("sealed")) {
            break;
        }
    }
    // The WebSocket is all that its address may have open.
    let poll = |from: [u8; 4]| {
        let client = reqwest::Client::builder()
            .no_proxy()
            .local_address(Some(from.into()));
        let url = format!("http://{}/v1/poll", proxy.address);
        let question = json!({"wait": 1, "mailboxes": {ONE: null}});
        client.build().unwrap().post(url).json(&question).send()
    };
    let refused = soon(poll([127, 4, 4, 3])).await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let answered = soon(poll([127, 4, 4, 4])).await.unwrap();
    assert_eq!(answered.status(), StatusCode::OK);
    assert!(answered.text().await.unwrap().contains("sealed"));
}

#[tokio::test]
async fn nginx_as_documented_hands_on_what_the_limits_and_the_clients_need() {
    let server = server().await;
    let proxy = Proxy::nginx(&server).await;
    clients_are_told_apart(&proxy).await;
    a_websocket_and_a_long_poll_pass(&proxy).await;
}

#[tokio::test]
async fn caddy_as_documented_hands_on_what_the_limits_and_the_clients_need() {
    let server = server().await;
    let proxy = Proxy::caddy(&server).await;
    clients_are_told_apart(&proxy).await;
    a_websocket_and_a_long_poll_pass(&proxy).await;
}

#[tokio::test]
async fn nobody_but_the_proxy_is_believed() {
    let server = Running::start(Options {
        trusted_proxies: vec!["127.9.9.9/32".parse().unwrap()],
        limits: Limits {
            mailboxes_per_address: 1,
            ..Limits::default()
        },
        ..Options::default()
    })
    .await;
    let put = |mailbox: &'static str, claim: &'static str| {
        let request = server.client.put(server.mailbox(mailbox)).body("sealed");
        request
            .header("content-type", "application/jose")
            .header("x-forwarded-for", claim)
            .send()
    };
    assert_eq!(
        soon(put(ONE, "192.0.2.1")).await.unwrap().status(),
        StatusCode::NO_CONTENT
    );
    let second = soon(put(TWO, "192.0.2.2")).await.unwrap();
    assert_eq!(second.status(), StatusCode::TOO_MANY_REQUESTS);
}
