//! Names of STUN servers, each resolved beside everything else: a slow resolver delays nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::{debug, info, warn};
use wice_core::server::{IceServer, ServerKind};

/// The servers' addresses as they were last found.
#[derive(Default)]
pub(super) struct Resolver {
    servers: BTreeMap<Server, Known>,
    lookups: JoinSet<(Server, io::Result<Vec<SocketAddr>>)>,
    /// What was handed out last.
    told: BTreeSet<SocketAddr>,
}

/// A server as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Server {
    host: String,
    port: u16,
}

#[derive(Default)]
struct Known {
    addresses: Vec<SocketAddr>,
    /// Failures since it was last found.
    failures: u32,
}

/// Names are looked up again after this: a server may move.
const AGAIN: Duration = Duration::from_secs(300);
/// A first retry for a name that no resolver knew, for example before the network was up.
const RETRY: Duration = Duration::from_secs(2);
/// A resolver that takes longer counts as none.
const PATIENCE: Duration = Duration::from_secs(10);

impl Resolver {
    /// Looks up the STUN servers among these from now on, at once.
    pub(super) fn resolve(&mut self, servers: &[IceServer]) {
        let mut known = std::mem::take(&mut self.servers);
        self.lookups = JoinSet::new();
        let wanted: BTreeSet<Server> = (servers.iter())
            .filter(|server| server.url.kind == ServerKind::Stun)
            .map(|server| Server {
                host: server.url.host.clone(),
                port: server.url.port,
            })
            .collect();
        for server in wanted {
            let before = known.remove(&server).unwrap_or_default();
            self.servers.insert(server.clone(), before);
            self.lookups.spawn(look_up(server, Duration::ZERO));
        }
    }

    /// Waits until the addresses are other ones than before; cancel-safe.
    pub(super) async fn next(&mut self) -> Vec<SocketAddr> {
        loop {
            let found: BTreeSet<SocketAddr> = self
                .servers
                .values()
                .flat_map(|known| &known.addresses)
                .copied()
                .collect();
            if self.told != found {
                self.told.clone_from(&found);
                return found.into_iter().collect();
            }
            match self.lookups.join_next().await {
                Some(Ok((server, answer))) => self.take(server, answer),
                // A lookup does not panic, and is aborted only together with its set.
                Some(Err(_)) => {}
                None => return std::future::pending().await,
            }
        }
    }

    /// Keeps what was found, and plans the next lookup.
    fn take(&mut self, server: Server, answer: io::Result<Vec<SocketAddr>>) {
        let Some(known) = self.servers.get_mut(&server) else {
            return;
        };
        let host = &server.host;
        let delay = match answer {
            Ok(addresses) => {
                if std::mem::take(&mut known.failures) > 0 {
                    info!("the STUN server {host} is resolved now");
                }
                known.addresses = addresses;
                if host.parse::<IpAddr>().is_ok() {
                    return;
                }
                AGAIN
            }
            // What was known before is better than nothing.
            Err(error) => {
                known.failures = known.failures.saturating_add(1);
                if known.failures == 1 {
                    warn!("cannot resolve the STUN server {host}: {error}; keeps trying");
                } else {
                    debug!("cannot resolve the STUN server {host}: {error}");
                }
                (RETRY * known.failures).min(AGAIN)
            }
        };
        self.lookups.spawn(look_up(server, delay));
    }
}

async fn look_up(server: Server, delay: Duration) -> (Server, io::Result<Vec<SocketAddr>>) {
    tokio::time::sleep(delay).await;
    let lookup = tokio::net::lookup_host((server.host.as_str(), server.port));
    let answer = match tokio::time::timeout(PATIENCE, lookup).await {
        Ok(answer) => answer.map(Iterator::collect),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the resolver does not answer",
        )),
    };
    (server, answer)
}

#[cfg(test)]
mod tests {
    use super::{Duration, IceServer, Resolver};

    const DEADLINE: Duration = Duration::from_secs(20);

    fn server(host: &str) -> IceServer {
        IceServer {
            url: format!("stun:{host}").parse().expect("a URI"),
            username: String::new(),
            credential: None,
        }
    }

    #[tokio::test]
    async fn a_name_that_nobody_knows_delays_no_other_server() {
        let mut resolver = Resolver::default();
        resolver.resolve(&[server("nobody.invalid"), server("192.0.2.1")]);
        let found = tokio::time::timeout(DEADLINE, resolver.next()).await;
        assert_eq!(found.expect("an answer"), [([192, 0, 2, 1], 3478).into()]);
    }

    #[tokio::test]
    async fn the_same_servers_again_are_no_news_and_fewer_are() {
        let mut resolver = Resolver::default();
        resolver.resolve(&[server("192.0.2.1")]);
        assert_eq!(resolver.next().await.len(), 1);
        resolver.resolve(&[server("192.0.2.1")]);
        let again = tokio::time::timeout(Duration::from_millis(50), resolver.next()).await;
        assert!(again.is_err(), "news without a change: {again:?}");
        resolver.resolve(&[]);
        let none = tokio::time::timeout(DEADLINE, resolver.next()).await;
        assert_eq!(none.expect("an answer"), []);
    }
}
