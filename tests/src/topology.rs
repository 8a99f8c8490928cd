//! The lab's map: a WAN bridge, routers on it, LANs behind them, hosts on either. It knows addresses and cables, not what
//! runs in a host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};

use crate::namespace::Namespace;
use crate::nat::Nat;

/// An address family: of a whole lab, or of one LAN where the WAN has both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// 10.0.0.0/24 is the WAN, 192.168.N.0/24 are the LANs.
    V4,
    /// 2001:db8::/64 is the WAN, 2001:db8:N::/64 are the LANs.
    V6,
}

/// A WAN and everything that is plugged into it.
#[derive(Debug)]
pub struct Lab {
    families: &'static [Family],
    wan: Namespace,
    routers: Vec<Namespace>,
    plugs: u8,
}

/// A router between the WAN and one LAN, whose interfaces are `wan` and `lan`, a bridge.
#[derive(Debug)]
pub struct Router {
    /// The machine.
    pub machine: Namespace,
    /// Its address on the WAN.
    pub address: IpAddr,
    number: u8,
    hosts: u8,
}

/// Which of the machine's two addresses of a family on the WAN a server uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat {
    /// `.1`, where the rendezvous server is.
    First = 1,
    /// `.2`, for a server beside it.
    Second = 2,
}

/// A host with one interface, `eth0`.
#[derive(Clone, Debug)]
pub struct Host {
    /// The machine.
    pub machine: Namespace,
    /// Its address on `eth0`.
    pub address: IpAddr,
}

impl Lab {
    /// Makes an empty WAN of one family. The machine in its middle, [`Lab::wan`], holds `.1`, and `.2` as a second server address.
    pub fn new(family: Family) -> Result<Self> {
        Self::of(match family {
            Family::V4 => &[Family::V4],
            Family::V6 => &[Family::V6],
        })
    }

    /// Makes an empty WAN of both families; each LAN has one, and none is translated into the other.
    pub fn dual() -> Result<Self> {
        Self::of(&[Family::V4, Family::V6])
    }

    fn of(families: &'static [Family]) -> Result<Self> {
        let wan = Namespace::create("wan")?;
        wan.ip("link add wan type bridge\nlink set wan up")?;
        for family in families {
            // The rest of the Internet is a router that nobody has seen: it swallows what is for nobody, private addresses for
            // one. Without a route to it, coturn ends an allocation whose peer it cannot send to.
            wan.ip(match family {
                Family::V4 => {
                    "addr add 10.0.0.1/24 dev wan\naddr add 10.0.0.2/24 dev wan\n\
                     neigh add 10.0.0.254 lladdr 02:00:00:00:00:fe dev wan nud permanent\n\
                     route add default via 10.0.0.254"
                }
                Family::V6 => {
                    "addr add 2001:db8::1/64 dev wan nodad\naddr add 2001:db8::2/64 dev wan nodad\n\
                     neigh add 2001:db8::fe lladdr 02:00:00:00:00:fe dev wan nud permanent\n\
                     route add default via 2001:db8::fe"
                }
            })?;
        }
        if families.contains(&Family::V6) {
            forward(&wan)?;
        }
        Ok(Self {
            families,
            wan,
            routers: Vec::new(),
            plugs: 0,
        })
    }

    /// Returns the machine in the middle of the WAN, where servers run.
    pub fn wan(&self) -> &Namespace {
        &self.wan
    }

    /// Returns that machine's address; of two families, the IPv4 one.
    pub fn server_address(&self) -> IpAddr {
        wan_address(self.families[0], Seat::First as u8)
    }

    /// Returns that machine's address of each family, at the given seat.
    pub fn server_addresses(&self, seat: Seat) -> Vec<IpAddr> {
        let families = self.families.iter();
        families
            .map(|family| wan_address(*family, seat as u8))
            .collect()
    }

    /// Gives that machine `.3` and `.4` of the lab's (first) family, for a server that needs two addresses.
    pub fn more_server_addresses(&self) -> Result<Vec<IpAddr>> {
        let family = self.families[0];
        let addresses = vec![wan_address(family, 3), wan_address(family, 4)];
        let length = match family {
            Family::V4 => "24 dev wan",
            Family::V6 => "64 dev wan nodad",
        };
        for address in &addresses {
            self.wan.ip(&format!("addr add {address}/{length}"))?;
        }
        Ok(addresses)
    }

    /// Adds a router of the given kind, with an empty LAN of the lab's (first) family.
    pub fn router(&mut self, nat: Nat) -> Result<Router> {
        self.router_in(self.families[0], nat)
    }

    /// Adds a router of the given kind, with an empty LAN of the given family.
    pub fn router_in(&mut self, family: Family, nat: Nat) -> Result<Router> {
        let number = u8::try_from(self.routers.len() + 1)?;
        let machine = Namespace::create(&format!("router{number}"))?;
        // A LAN keeps its uplink even when the test has no more use for its router.
        self.routers.push(machine.clone());
        machine.ip("link add lan type bridge\nlink set lan up")?;
        self.plug(&machine, "wan")?;
        let address = wan_address(family, 10 + number);
        match family {
            Family::V4 => machine.ip(&format!(
                "addr add {address}/24 dev wan\naddr add 192.168.{number}.1/24 dev lan\nroute add default via 10.0.0.1"
            ))?,
            Family::V6 => {
                machine.ip(&format!(
                    "addr add {address}/64 dev wan nodad\naddr add 2001:db8:{number}::1/64 dev lan nodad\n\
                     route add default via 2001:db8::1"
                ))?;
                self.wan.ip(&format!("route add 2001:db8:{number}::/64 via {address}"))?;
            }
        }
        forward(&machine)?;
        if let Some(rules) = nat.rules() {
            machine
                .run_with_input("nft -f -", &rules)
                .with_context(|| format!("the rules of a {nat:?} router"))?;
        }
        Ok(Router {
            machine,
            address,
            number,
            hosts: 1,
        })
    }

    /// Adds a host to the LAN of a router.
    pub fn host(&mut self, name: &str, router: &mut Router) -> Result<Host> {
        let machine = Namespace::create(name)?;
        router.hosts += 1;
        let port = format!("p{}", router.hosts);
        cable(&router.machine, &port, "lan", &machine)?;
        let mut host = Host {
            machine,
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        host.readdress(router, router.hosts)?;
        Ok(host)
    }

    /// Adds a host directly to the WAN.
    pub fn host_on_wan(&mut self, name: &str) -> Result<Host> {
        let machine = Namespace::create(name)?;
        self.plug(&machine, "eth0")?;
        let address = wan_address(self.families[0], 100 + self.plugs);
        let (length, flags) = if address.is_ipv4() {
            (24, "")
        } else {
            (64, "nodad")
        };
        machine.ip(&format!("addr add {address}/{length} dev eth0 {flags}"))?;
        machine.ip(&format!("route add default via {}", self.server_address()))?;
        Ok(Host { machine, address })
    }

    fn plug(&mut self, machine: &Namespace, interface: &str) -> Result<()> {
        self.plugs += 1;
        let port = format!("p{}", self.plugs);
        cable(&self.wan, &port, "wan", machine)?;
        if interface != "eth0" {
            machine.ip(&format!(
                "link set eth0 down\nlink set eth0 name {interface}\nlink set {interface} up"
            ))?;
        }
        Ok(())
    }
}

impl Router {
    /// Returns the addresses and prefixes by which the WAN may see this router and what is behind it.
    pub fn sources(&self) -> [String; 2] {
        let lan = match self.address {
            IpAddr::V4(_) => format!("192.168.{}.0/24", self.number),
            IpAddr::V6(_) => format!("2001:db8:{}::/64", self.number),
        };
        [self.address.to_string(), lan]
    }
}

impl Host {
    /// Gives the host another address on the same LAN, as a new DHCP lease would: the old one and its routes go.
    pub fn readdress(&mut self, router: &Router, last: u8) -> Result<()> {
        let lan = router.number;
        let v4 = router.address.is_ipv4();
        let (address, gateway, length, flags): (IpAddr, IpAddr, u8, &str) = if v4 {
            (
                Ipv4Addr::new(192, 168, lan, last).into(),
                Ipv4Addr::new(192, 168, lan, 1).into(),
                24,
                "",
            )
        } else {
            let on_lan =
                |last: u16| Ipv6Addr::new(0x2001, 0xdb8, lan.into(), 0, 0, 0, 0, last).into();
            (on_lan(last.into()), on_lan(1), 64, "nodad")
        };
        self.machine.ip(&format!(
            "addr flush dev eth0 scope global\naddr add {address}/{length} dev eth0 {flags}\nroute add default via {gateway}"
        ))?;
        self.address = address;
        Ok(())
    }

    /// Unplugs the host and plugs it into another router's LAN: the laptop that leaves the office.
    pub fn move_to(&mut self, router: &mut Router) -> Result<()> {
        self.machine.ip("link del eth0")?;
        router.hosts += 1;
        cable(
            &router.machine,
            &format!("p{}", router.hosts),
            "lan",
            &self.machine,
        )?;
        self.readdress(router, router.hosts)
    }
}

fn wan_address(family: Family, last: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 0, 0, last).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into(),
    }
}

/// Lays a cable from the bridge of one machine to `eth0` of another.
fn cable(from: &Namespace, port: &str, bridge: &str, to: &Namespace) -> Result<()> {
    from.ip(&format!(
        "link add {port} type veth peer name eth0 netns {}\nlink set {port} master {bridge} up",
        to.net_path()
    ))?;
    to.ip("link set eth0 up")
}

fn forward(machine: &Namespace) -> Result<()> {
    machine.write("/proc/sys/net/ipv4/ip_forward", "1")?;
    machine.write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
}
