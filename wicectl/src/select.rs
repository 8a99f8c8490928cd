//! Which interface or peer a person means.

use wice_bus::{Interface, Peer, Snapshot};

use crate::failure::Failure;
use crate::print::escape;

/// A peer and the interface that it belongs to.
#[derive(Clone, Copy)]
pub(crate) struct Found<'a> {
    pub(crate) interface: &'a Interface,
    pub(crate) peer: &'a Peer,
}

impl Found<'_> {
    /// Interface and peer, safe to print.
    pub(crate) fn label(&self) -> String {
        let (interface, peer) = (escape(&self.interface.name), escape(name(self.peer)));
        format!("{interface} {peer}")
    }
}

/// A peer's name, or its key when it has none.
pub(crate) fn name(peer: &Peer) -> &str {
    if peer.name.is_empty() {
        &peer.public_key
    } else {
        &peer.name
    }
}

/// Every peer of the interfaces that `within` leaves, in the order of the snapshot.
pub(crate) fn peers<'a>(
    snapshot: &'a Snapshot,
    within: Option<&str>,
) -> impl Iterator<Item = Found<'a>> {
    snapshot
        .interfaces
        .iter()
        .filter(move |interface| within.is_none_or(|only| only == interface.name))
        .flat_map(|interface| {
            let peers = interface.peers.iter();
            peers.map(move |peer| Found { interface, peer })
        })
}

/// The interface of this name.
pub(crate) fn interface<'a>(snapshot: &'a Snapshot, name: &str) -> Result<&'a Interface, Failure> {
    let mut interfaces = snapshot.interfaces.iter();
    interfaces
        .find(|interface| interface.name == name)
        .ok_or_else(|| {
            let known: Vec<String> = snapshot
                .interfaces
                .iter()
                .map(|i| escape(&i.name))
                .collect();
            let known = if known.is_empty() {
                "the agent sees none".to_owned()
            } else {
                format!("there is {}", known.join(", "))
            };
            Failure::Unknown(format!(
                "no WireGuard interface {:?}: {known}",
                escape(name)
            ))
        })
}

/// The one peer that the text means: its key, else its name, else the beginning of its key.
pub(crate) fn peer<'a>(
    snapshot: &'a Snapshot,
    within: Option<&str>,
    text: &str,
) -> Result<Found<'a>, Failure> {
    if let Some(name) = within {
        interface(snapshot, name)?;
    }
    let matching = |fits: &dyn Fn(&Peer) -> bool| -> Vec<Found<'a>> {
        peers(snapshot, within)
            .filter(|found| fits(found.peer))
            .collect()
    };
    let rules: [&dyn Fn(&Peer) -> bool; 3] = [
        &|peer| peer.public_key == text,
        &|peer| !peer.name.is_empty() && peer.name == text,
        &|peer| !text.is_empty() && peer.public_key.starts_with(text),
    ];
    let found = rules
        .into_iter()
        .map(matching)
        .find(|found| !found.is_empty())
        .unwrap_or_default();
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(Failure::Unknown(format!(
            "no peer {:?}{}: give its name, its key or the beginning of its key (see wicectl status)",
            escape(text),
            within.map_or_else(String::new, |i| format!(" on {}", escape(i)))
        ))),
        several => Err(Failure::Usage(ambiguous(text, several))),
    }
}

/// How many of the peers that fit are listed: a screen's worth.
const LISTED: usize = 20;

fn ambiguous(text: &str, several: &[Found<'_>]) -> String {
    let mut message = format!("{:?} fits {} peers; say more:", escape(text), several.len());
    for Found { interface, peer } in several.iter().take(LISTED) {
        message.push_str(
            format!(
                "\n  {} {} {}",
                escape(&interface.name),
                escape(&peer.public_key),
                escape(&peer.name)
            )
            .trim_end(),
        );
    }
    if let Some(more @ 1..) = several.len().checked_sub(LISTED) {
        message.push_str(&format!("\n  and {more} more"));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    fn snapshot() -> Snapshot {
        let peer = |key: &str, name: &str| Peer {
            public_key: key.to_owned(),
            name: name.to_owned(),
            ..Peer::default()
        };
        let interface = |name: &str, peers| Interface {
            name: name.to_owned(),
            peers,
            ..Interface::default()
        };
        Snapshot {
            interfaces: vec![
                interface("wg0", vec![peer("abc1", "laptop"), peer("abd2", "")]),
                interface("wg1", vec![peer("xyz3", "abd2"), peer("abc1", "")]),
            ],
            ..Snapshot::default()
        }
    }

    fn found(within: Option<&str>, text: &str) -> Result<(String, String), Exit> {
        peer(&snapshot(), within, text)
            .map(|it| (it.interface.name.clone(), it.peer.public_key.clone()))
            .map_err(|failure| failure.exit())
    }

    #[test]
    fn a_peer_is_found_by_name_on_any_interface() {
        assert_eq!(
            found(None, "laptop"),
            Ok(("wg0".to_owned(), "abc1".to_owned()))
        );
    }

    #[test]
    fn a_peer_is_found_by_the_beginning_of_its_key() {
        assert_eq!(found(None, "x"), Ok(("wg1".to_owned(), "xyz3".to_owned())));
    }

    #[test]
    fn a_whole_key_wins_over_a_name() {
        assert_eq!(
            found(None, "abd2"),
            Ok(("wg0".to_owned(), "abd2".to_owned()))
        );
    }

    #[test]
    fn what_fits_several_peers_lists_them() {
        assert_eq!(found(None, "ab"), Err(Exit::Usage));
        let Err(failure) = peer(&snapshot(), None, "abc1") else {
            panic!("two interfaces have this peer");
        };
        assert_eq!(
            failure.to_string(),
            "\"abc1\" fits 2 peers; say more:\n  wg0 abc1 laptop\n  wg1 abc1"
        );
        assert_eq!(
            found(Some("wg1"), "abc1"),
            Ok(("wg1".to_owned(), "abc1".to_owned()))
        );
    }

    #[test]
    fn what_fits_nothing_is_unknown() {
        assert_eq!(found(None, "nobody"), Err(Exit::Unknown));
        assert_eq!(found(None, ""), Err(Exit::Unknown));
        assert_eq!(found(Some("wg9"), "laptop"), Err(Exit::Unknown));
    }
}
