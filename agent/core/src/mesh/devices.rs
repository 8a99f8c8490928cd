//! How the mesh follows the kernel: interfaces and peers that come, change and go.
//!
//! Compares whole dumps with what is known; who answers, and where, is not its business.

use super::interface::Interface;
use super::peer::Peer;
use super::routes::PeerId;
use super::{Alarm, Mesh};
use crate::device::Device;
use crate::io::{Change, Now};
use crate::key::PublicKey;

impl Mesh {
    pub(super) fn device(&mut self, device: &Device, now: Now) {
        // The same name under another index: the interface was deleted and made again.
        if let Some(old) = self.index(&device.name)
            && old != device.index
        {
            self.remove_interface(old, now);
        }
        let index = device.index;
        let managed = self.settings.manages_interface(&device.name);
        let mut changed = false;
        let mut named = false;
        if let Some(interface) = self.interfaces.get_mut(&index) {
            let old_name = interface.name.clone();
            let difference = interface.observe(device);
            changed |= difference.rename || difference.identity || difference.fwmark;
            if difference.rename {
                named = true;
                self.rename(index, old_name);
            }
            if difference.identity {
                self.each_peer_of(index, now, |peer, cx| peer.leave(cx));
            }
        } else {
            let interface = Interface::new(device, managed, now.instant);
            self.interfaces.insert(index, interface);
            changed = true;
            named = true;
        }
        if let Some(interface) = self.interfaces.get_mut(&index) {
            changed |= std::mem::replace(&mut interface.managed, managed) != managed;
            if changed {
                self.changed(Change::Interface(device.name.clone()));
                self.regather_interface(index, now);
            }
        }
        if named {
            // Addresses inside this tunnel are no candidates of any other.
            self.regather(now);
        }
        self.allocate(index, device.peers.keys());
        self.gathered(index, now);
        self.peers_of(device, now);
        self.schedule_dump(index, now, true);
    }

    /// Follows the peers of a dump: gone, new and changed ones.
    fn peers_of(&mut self, device: &Device, now: Now) {
        let index = device.index;
        let Some(interface) = self.interfaces.get(&index) else {
            return;
        };
        let gone: Vec<PublicKey> = interface
            .peers
            .keys()
            .filter(|key| !device.peers.contains_key(key))
            .copied()
            .collect();
        for key in gone {
            self.remove_peer(
                PeerId {
                    interface: index,
                    key,
                },
                now,
            );
        }
        for (key, kernel) in &device.peers {
            let id = PeerId {
                interface: index,
                key: *key,
            };
            let Some(interface) = self.interfaces.get_mut(&index) else {
                return;
            };
            let obstacle = interface.obstacle(key, &self.settings);
            interface
                .peers
                .entry(*key)
                .or_insert_with(|| Peer::new(id, kernel.clone(), now));
            self.with_peer(id, now, |peer, cx| {
                peer.observe(kernel, cx);
                peer.manage(obstacle, cx);
            });
        }
    }

    /// Sessions survive a rename; what is shown under the old name goes.
    fn rename(&mut self, index: u32, old_name: String) {
        let Some(interface) = self.interfaces.get_mut(&index) else {
            return;
        };
        let name = interface.name.clone();
        for peer in interface.peers.values_mut() {
            peer.show_again();
        }
        tracing::info!(old = old_name, new = name, "the interface was renamed");
        self.changed(Change::InterfaceGone(old_name));
    }

    pub(super) fn remove_interface(&mut self, index: u32, now: Now) {
        self.each_peer_of(index, now, |peer, cx| peer.leave(cx));
        self.deallocate(index);
        self.close_doors(index);
        let Some(interface) = self.interfaces.remove(&index) else {
            return;
        };
        self.alarms.set(Alarm::Gather(index), None);
        self.alarms.set(Alarm::Dump(index), None);
        for key in interface.peers.keys() {
            let id = PeerId {
                interface: index,
                key: *key,
            };
            self.alarms.set(Alarm::Peer(id), None);
            self.changed(Change::PeerGone {
                interface: interface.name.clone(),
                peer: *key,
            });
        }
        self.changed(Change::InterfaceGone(interface.name));
    }

    fn remove_peer(&mut self, id: PeerId, now: Now) {
        self.with_peer(id, now, |peer, cx| peer.leave(cx));
        self.alarms.set(Alarm::Peer(id), None);
        if let Some(interface) = self.interfaces.get_mut(&id.interface)
            && interface.peers.remove(&id.key).is_some()
        {
            let interface = interface.name.clone();
            self.changed(Change::PeerGone {
                interface,
                peer: id.key,
            });
        }
    }

    pub(super) fn reconfigure(&mut self, now: Now) {
        let indices: Vec<u32> = self.interfaces.keys().copied().collect();
        for index in indices {
            let Some(interface) = self.interfaces.get_mut(&index) else {
                continue;
            };
            interface.managed = self.settings.manages_interface(&interface.name);
            let obstacles: Vec<_> = interface
                .peers
                .keys()
                .map(|key| (*key, interface.obstacle(key, &self.settings)))
                .collect();
            let name = interface.name.clone();
            self.changed(Change::Interface(name));
            self.allocate(index, obstacles.iter().map(|(key, _)| key));
            self.regather_interface(index, now);
            for (key, obstacle) in obstacles {
                let id = PeerId {
                    interface: index,
                    key,
                };
                self.with_peer(id, now, |peer, cx| {
                    peer.show_again();
                    peer.manage(obstacle, cx);
                });
            }
        }
    }

    pub(super) fn schedule_dump(&mut self, index: u32, now: Now, dumped: bool) {
        let Some(interface) = self.interfaces.get_mut(&index) else {
            return;
        };
        let unsettled = interface.peers.values().any(Peer::is_unsettled);
        let pause = if unsettled {
            interface.dump_fast()
        } else {
            interface.dump_settled()
        };
        let at = now.instant + pause;
        if dumped || at < interface.dump_at {
            interface.dump_at = at;
        }
        self.alarms.set(Alarm::Dump(index), Some(interface.dump_at));
    }
}
