//! The mailboxes of a scene, as those see them who have a private key, and as anybody does.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use wice_core::key::{PrivateKey, PublicKey};
use wice_core::mailbox::{Mailbox, Sealed};
use wice_core::seal::PairSecrets;

use wice_tests::scene::{Scene, Side};

/// What a side shares with the other one.
pub(crate) fn secrets(side: &Side, other: &Side) -> Result<PairSecrets> {
    let private = side.host.machine.run("wg show wg0 private-key")?;
    // Only the encoding matters here: it is the same for both kinds of keys.
    let bytes: PublicKey = private.trim().parse().context("not a key")?;
    let private = PrivateKey::from_bytes(*bytes.as_bytes()).context("not a private key")?;
    let peer = other.tunnel.key.parse().context("not a key")?;
    PairSecrets::derive(&private, &peer).context("no agreement")
}

/// Reads what lies in a mailbox, if something does.
pub(crate) fn read(scene: &Scene, mailbox: Mailbox) -> Result<Option<Sealed>> {
    let server = SocketAddr::new(scene.lab.server_address(), 8080);
    let answer = scene.lab.wan().enter(|| {
        let mut stream = TcpStream::connect(server)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(
            stream,
            "GET /v1/mailboxes/{mailbox} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP")?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(Some(Sealed::new(body.trim()).context("not a message")?)),
        Some("404") => Ok(None),
        _ => bail!("the server answered {head}"),
    }
}
