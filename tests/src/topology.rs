//! The lab's map: a WAN bridge, routers on it, LANs behind them, hosts on either. It knows addresses and cables, not what
//! runs in a host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};

use crate::namespace::Namespace;
use crate::nat::Nat;

/// The address family of a whole lab.
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
    family: Family,
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

/// A host with one interface, `eth0`.
#[derive(Clone, Debug)]
pub struct Host {
    /// The machine.
    pub machine: Namespace,
    /// Its address on `eth0`.
    pub address: IpAddr,
}

impl Lab {
    /// Makes an empty WAN. The machine in its middle, [`Lab::wan`], holds `.1`, and `.2` as a second server address.
    pub fn new(family: Family) -> Result<Self> {
        let wan = Namespace::create("wan")?;
        let addresses = match family {
            Family::V4 => "addr add 10.0.0.1/24 dev wan\naddr add 10.0.0.2/24 dev wan",
            Family::V6 => {
                "addr add 2001:db8::1/64 dev wan nodad\naddr add 2001:db8::2/64 dev wan nodad"
            }
        };
        wan.ip(&format!(
            "link add wan type bridge\nlink set wan up\n{addresses}"
        ))?;
        if family == Family::V6 {
            forward(&wan)?;
        }
        Ok(Self {
            family,
            wan,
            routers: Vec::new(),
            plugs: 0,
        })
    }

    /// Returns the machine in the middle of the WAN, where servers run.
    pub fn wan(&self) -> &Namespace {
        &self.wan
    }

    /// Returns that machine's address.
    pub fn server_address(&self) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::new(10, 0, 0, 1).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        }
    }

    /// Adds a router of the given kind, with an empty LAN.
    pub fn router(&mut self, nat: Nat) -> Result<Router> {
        let number = u8::try_from(self.routers.len() + 1)?;
        let machine = Namespace::create(&format!("router{number}"))?;
        // A LAN keeps its uplink even when the test has no more use for its router.
        self.routers.push(machine.clone());
        machine.ip("link add lan type bridge\nlink set lan up")?;
        self.plug(&machine, "wan")?;
        let address = self.wan_address(10 + number);
        match self.family {
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
        let address = self.wan_address(100 + self.plugs);
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

    fn wan_address(&self, last: u8) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::new(10, 0, 0, last).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into(),
        }
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
