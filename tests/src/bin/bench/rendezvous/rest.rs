//! Reading a mailbox by REST with `wrk`, beside nginx with a file of the same size.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::program::{Nginx, Server, installed};
use crate::usage::Usage;

const BYTES: usize = 1_024;
const MAILBOX: &str = "0123456789abcdef0123456789abcdef01234567";

/// Prints requests a second of both.
pub(crate) async fn measure() -> Result<()> {
    let Some(wrk) = installed("wrk") else {
        println!("\n  REST: not measured, there is no wrk here");
        return Ok(());
    };
    let load = |address: SocketAddr, path: &str, process: u32| -> Result<(f64, f64)> {
        let url = format!("http://{address}{path}");
        let before = Usage::of(process)?;
        let output = Command::new(&wrk)
            .args(["-t", "1", "-c", "32", "-d", "5", &url])
            .output()?;
        let used = Usage::of(process)?.processor() - before.processor();
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(!text.contains("Non-2xx"), "{url} refused requests: {text}");
        let count = text
            .lines()
            .find_map(|line| line.split_once(" requests in "));
        let count: f64 = count
            .with_context(|| format!("not what wrk prints: {text}"))?
            .0
            .trim()
            .parse()?;
        Ok((count / 5.0, count / used.as_secs_f64()))
    };
    let server = Server::start(&[])?;
    fill(server.address())?;
    let ours = load(
        server.address(),
        &format!("/v1/mailboxes/{MAILBOX}"),
        server.id(),
    )?;
    println!("\n  Reading {BYTES} bytes over HTTP by 32 clients\n");
    println!("    {:<34}{:>10}{:>14}", "", "a second", "a core·second");
    println!(
        "    {:<34}{:>10.0}{:>14.0}",
        "wice-signal, a mailbox", ours.0, ours.1
    );
    let Some(nginx) = Nginx::start(BYTES)? else {
        println!("    nginx: not measured, it is not here");
        return Ok(());
    };
    let theirs = load(nginx.address(), "/file", nginx.id())?;
    println!(
        "    {:<34}{:>10.0}{:>14.0}",
        "nginx, a file", theirs.0, theirs.1
    );
    println!(
        "    wice-signal answers {:.2} of what nginx does with a core",
        ours.1 / theirs.1
    );
    Ok(())
}

fn fill(address: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let body = "x".repeat(BYTES);
    write!(
        stream,
        "PUT /v1/mailboxes/{MAILBOX} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\
         content-type: application/jose\r\ncontent-length: {BYTES}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(
        answer.contains(" 204 "),
        "the mailbox was not filled: {answer}"
    );
    Ok(())
}
