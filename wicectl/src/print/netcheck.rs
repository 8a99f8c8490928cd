//! A check of the network: text for people, JSON for programs (described in `docs/dbus.md`).

mod advice;
#[cfg(test)]
mod tests;

use serde::Serialize;
use wice_bus::{
    FamilyCheck, Filtering, Mapping, MappingMethod, NetCheck, ServerCheck, Udp, Verdict,
};

use super::json::{self, ServerFields, filled};
use super::status::{backend, line};
use super::style::Style;
use super::{escape, units};
use advice::{advice, summary};

/// The verdict first, then what it comes from, then what would help.
pub(crate) fn render(check: &NetCheck, style: Style) -> String {
    let mut text = format!(
        "{}: {}\n",
        style.bold("direct path"),
        verdict(check.verdict, style)
    );
    text.push_str(&format!("  {}\n", summary(check.verdict)));
    for shown in &check.families {
        text.push_str(&family(shown, style));
    }
    text.push_str(&format!("\n{}\n", style.bold("servers")));
    if check.servers.is_empty() {
        text.push_str(&format!(
            "  {}\n",
            style.dim("none is known, so nobody could be asked")
        ));
    }
    for shown in &check.servers {
        text.push_str(&format!("  {}\n", server(shown, style)));
    }
    text.push_str(&format!("\n{}\n", style.bold("signalling")));
    if check.backends.is_empty() {
        text.push_str(&format!("  {}\n", style.dim("no backend is configured")));
    }
    for shown in &check.backends {
        text.push_str(&format!("  {}\n", backend(shown, style)));
    }
    let advice: Vec<&str> = check.findings.iter().map(|it| advice(*it)).collect();
    if !advice.is_empty() {
        text.push_str(&format!(
            "\n{}\n",
            style.bold("what to know, and what would help")
        ));
    }
    for advice in advice {
        text.push_str(&format!("  {advice}\n"));
    }
    text
}

fn verdict(verdict: Verdict, style: Style) -> String {
    match verdict {
        Verdict::Unknown => style.dim("not known"),
        Verdict::Direct => style.good("likely"),
        Verdict::DirectWithSome => style.warn("with some peers only"),
        Verdict::RelayOnly => style.warn("no, by a relay only"),
        Verdict::Blocked => style.bad("no, and no relay either"),
    }
}

fn family(check: &FamilyCheck, style: Style) -> String {
    let title = match check.family.as_str() {
        "ipv4" => "IPv4".to_owned(),
        "ipv6" => "IPv6".to_owned(),
        other => escape(other),
    };
    let mut text = format!("\n{}\n", style.bold(&title));
    let udp = match check.udp {
        Udp::Unknown => style.dim("not known"),
        Udp::NoAddress => style.dim("this machine has no address that leads anywhere"),
        Udp::NoServer => style.dim("no server with such an address is known, so nobody was asked"),
        Udp::Unanswered => style.warn("no server answers"),
        Udp::Works => "works".to_owned(),
    };
    line(&mut text, style, "UDP", &udp);
    if !check.local_address.is_empty() {
        line(
            &mut text,
            style,
            "local address",
            &escape(&check.local_address),
        );
    }
    if check.udp != Udp::Works {
        return text;
    }
    line(
        &mut text,
        style,
        "mapped address",
        &escape(&check.mapped_address),
    );
    line(&mut text, style, "mapping", &mapping(check));
    line(&mut text, style, "filtering", filtering(check.filtering));
    let told = [
        ("hairpinning", check.hairpinning),
        ("port preservation", check.port_preserved),
    ];
    // Where nothing is translated, neither is a question.
    for (name, value) in told {
        match value {
            Some(true) => line(&mut text, style, name, "yes"),
            Some(false) => line(&mut text, style, name, "no"),
            None => {}
        }
    }
    text
}

fn mapping(check: &FamilyCheck) -> String {
    let words = match check.mapping {
        Mapping::Unknown => return "not known: one server is not enough to tell".to_owned(),
        Mapping::None => "none: the outside sees the local address",
        Mapping::EndpointIndependent => "endpoint-independent: one address for all destinations",
        Mapping::Dependent => "depends on the destination (symmetric)",
        Mapping::AddressDependent => "address-dependent: another one for each destination address",
        Mapping::AddressAndPortDependent => {
            "address- and port-dependent: another one for each destination (symmetric)"
        }
    };
    let method = match check.mapping_method {
        MappingMethod::None => return words.to_owned(),
        MappingMethod::Servers => "as the servers see it",
        MappingMethod::Rfc5780 => "by RFC 5780",
    };
    format!("{words} ({method})")
}

const fn filtering(filtering: Filtering) -> &'static str {
    match filtering {
        Filtering::Unknown => "not known: no server with a second address answers",
        Filtering::EndpointIndependent => "endpoint-independent: anybody may send in",
        Filtering::AddressDependent => "address-dependent: whoever was sent to may, from any port",
        Filtering::AddressAndPortDependent => {
            "address- and port-dependent: only the exact address and port that was sent to may"
        }
    }
}

fn server(check: &ServerCheck, style: Style) -> String {
    let mut text = escape(&check.url);
    if !check.address.is_empty() && !check.url.contains(&check.address) {
        text.push_str(&format!(" at {}", escape(&check.address)));
    }
    let mut told = Vec::new();
    if check.rtt_us > 0 {
        told.push(units::milliseconds(check.rtt_us));
    }
    if !check.mapped_address.is_empty() {
        told.push(format!("sees {}", escape(&check.mapped_address)));
    }
    if check.relays == Some(true) {
        told.push("relays".to_owned());
    }
    if check.discovery {
        told.push("tells filtering".to_owned());
    }
    if !check.error.is_empty() {
        told.push(style.warn(&escape(&check.error)));
    }
    format!("{text}: {}", told.join(", "))
}

#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    verdict: &'static str,
    summary: &'static str,
    findings: Vec<&'static str>,
    families: Vec<FamilyFields<'a>>,
    servers: Vec<CheckFields<'a>>,
    backends: Vec<ServerFields<'a>>,
}

#[derive(Serialize)]
struct FamilyFields<'a> {
    family: &'a str,
    udp: &'static str,
    local_address: Option<&'a str>,
    mapped_address: Option<&'a str>,
    mapping: &'static str,
    mapping_method: &'static str,
    filtering: &'static str,
    hairpinning: Option<bool>,
    port_preserved: Option<bool>,
}

#[derive(Serialize)]
struct CheckFields<'a> {
    url: &'a str,
    address: Option<&'a str>,
    answered: bool,
    rtt_us: Option<u64>,
    mapped_address: Option<&'a str>,
    relays: Option<bool>,
    discovery: bool,
    error: Option<&'a str>,
}

/// One document, indented.
pub(crate) fn json(check: &NetCheck) -> String {
    let document = Document {
        version: json::VERSION,
        verdict: check.verdict.word(),
        summary: summary(check.verdict),
        findings: check.findings.iter().map(|it| it.word()).collect(),
        families: check.families.iter().map(family_fields).collect(),
        servers: check.servers.iter().map(server_fields).collect(),
        backends: check.backends.iter().map(json::backend).collect(),
    };
    let text = super::json_pretty(&document);
    format!("{text}\n")
}

fn family_fields(check: &FamilyCheck) -> FamilyFields<'_> {
    FamilyFields {
        family: &check.family,
        udp: check.udp.word(),
        local_address: filled(&check.local_address),
        mapped_address: filled(&check.mapped_address),
        mapping: check.mapping.word(),
        mapping_method: check.mapping_method.word(),
        filtering: check.filtering.word(),
        hairpinning: check.hairpinning,
        port_preserved: check.port_preserved,
    }
}

fn server_fields(check: &ServerCheck) -> CheckFields<'_> {
    CheckFields {
        url: &check.url,
        address: filled(&check.address),
        answered: check.answered,
        rtt_us: (check.rtt_us > 0).then_some(check.rtt_us),
        mapped_address: filled(&check.mapped_address),
        relays: check.relays,
        discovery: check.discovery,
        error: filled(&check.error),
    }
}
