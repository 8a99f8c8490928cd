//! A certification authority of the lab's own, and a server's certificate by it. Made by `openssl`, anew for each lab.

use anyhow::Result;

use crate::namespace::Namespace;
use crate::topology::{Lab, Seat};

/// A server's certificate and key, as files in the machine in the middle of the WAN.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate of the authority, in PEM: what a host must trust.
    pub authority: String,
    /// The path of the server's certificate.
    pub certificate: &'static str,
    /// The path of its key.
    pub key: &'static str,
}

/// Where a host keeps the authority that it trusts.
const TRUSTED: &str = "/run/lab/authority.pem";

/// What makes a certificate one that no other can be signed with: TLS clients refuse an authority as a server.
const SERVER: &str = "basicConstraints=critical,CA:FALSE";

impl Certificate {
    /// Makes an authority, and a certificate for every server address of the WAN.
    pub fn create(lab: &Lab) -> Result<Self> {
        let [first, second] = [Seat::First, Seat::Second].map(|seat| lab.server_addresses(seat));
        let names: Vec<String> = first
            .iter()
            .chain(&second)
            .map(|address| format!("IP:{address}"))
            .collect();
        let made = Self {
            authority: String::new(),
            certificate: "/run/lab/server.pem",
            key: "/run/lab/server.key",
        };
        let request =
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
        lab.wan().run(&format!(
            "{request} -subj /CN=lab-authority -keyout /run/lab/authority.key -out {TRUSTED}"
        ))?;
        lab.wan().run(&format!(
            "{request} -subj /CN=lab-server -CA {TRUSTED} -CAkey /run/lab/authority.key -addext {SERVER} \
             -addext subjectAltName={} -keyout {} -out {}",
            names.join(","),
            made.key,
            made.certificate
        ))?;
        let authority = lab.wan().read(TRUSTED)?;
        Ok(Self { authority, ..made })
    }
}

/// Lets a host trust an authority: returns the path to name in `SSL_CERT_FILE`.
pub fn trust(machine: &Namespace, authority: &str) -> Result<&'static str> {
    machine.write(TRUSTED, authority)?;
    Ok(TRUSTED)
}
