use std::path::Path;

use wice_core::settings::Policy;

use super::{Config, ConfigError};

struct Directory(std::path::PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wice-config-{}-{name}", std::process::id()));
        std::fs::create_dir_all(path.join("wice.toml.d")).expect("a directory");
        Self(path)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).expect("a file");
    }

    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(Some(&self.0.join("wice.toml")))
    }

    fn refusal(&self, text: &str) -> String {
        self.write("wice.toml", text);
        self.load().expect_err("a refusal").to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn an_unknown_key_is_named_with_its_file_its_line_and_the_nearest_known_key() {
    let directory = Directory::new("unknown");
    let error = directory.refusal("[signaling]\nbackend = []\n");
    for part in ["wice.toml, line 2", "`backend`", "did you mean `backends`?"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn drop_ins_override_single_keys_in_the_order_of_their_names() {
    let directory = Directory::new("dropins");
    directory.write(
        "wice.toml",
        "[signaling]\nbackends = [\"wss://a.example\"]\n[ice]\nservers = [\"stun:a.example\"]\n",
    );
    directory.write(
        "wice.toml.d/20.toml",
        "[signaling]\nbackends = [\"wss://c.example\"]\n",
    );
    directory.write(
        "wice.toml.d/10.toml",
        "[signaling]\nbackends = [\"wss://b.example\"]\n",
    );
    directory.write("wice.toml.d/30.txt", "not read\n");
    let config = directory.load().expect("valid");
    assert_eq!(config.backends.len(), 1);
    assert_eq!(config.backends[0].as_str(), "wss://c.example/");
    assert_eq!(config.servers.len(), 1);
    assert_eq!(config.servers[0].url.to_string(), "stun:a.example:3478");
}

#[test]
fn later_interface_tables_win() {
    let directory = Directory::new("order");
    directory.write(
        "wice.toml",
        "[interface.\"wg*\"]\nmanage = true\n[interface.\"a*\"]\nmanage = false\n[interface.wg1]\nmanage = false\n",
    );
    let settings = directory.load().expect("valid").settings;
    assert!(settings.manages_interface("wg0"));
    assert!(!settings.manages_interface("wg1"));
    assert!(!settings.manages_interface("a0"));
    assert!(
        settings.manages_interface("tun0"),
        "everything else is managed"
    );
}

#[test]
fn stun_servers_may_be_names_or_addresses_of_both_families() {
    let directory = Directory::new("stun");
    directory.write(
        "wice.toml",
        "[ice]\nservers = [\"stun:[2001:db8::1]:5\", \"stun:2001:db8::2\", { url = \"stun:192.0.2.1:7\" }]\n",
    );
    let config = directory.load().expect("valid");
    let urls: Vec<String> = config.servers.iter().map(|it| it.url.to_string()).collect();
    assert_eq!(
        urls,
        [
            "stun:[2001:db8::1]:5",
            "stun:[2001:db8::2]:3478",
            "stun:192.0.2.1:7"
        ]
    );
}

#[test]
fn bad_values_are_repeated_with_what_was_expected_and_without_passwords() {
    let directory = Directory::new("values");
    for (text, part) in [
        (
            "[signaling]\nbackends = [\"gopher://x\"]",
            "this build knows http",
        ),
        ("[signaling]\nbackends = [\"nonsense\"]", "not a URL"),
        (
            "[signaling]\nbackends = [\"wss://user:secret@x\"]",
            "put a token into token-file",
        ),
        ("[ice]\nservers = [\"stun:x:99999\"]", "1 to 65535"),
        ("[ice]\npolicy = \"never\"", "expected \"all\""),
        ("[ice]\ncandidates = [\"srflex\"]", "\"srflx\""),
        ("[peer.abc]\nname = \"x\"", "not a WireGuard key"),
        ("[interface.\"[\"]\nmanage = true", "not a pattern"),
        (
            "[signaling]\ntoken-file = \"/nonexistent/token\"",
            "cannot read /nonexistent/token",
        ),
        ("[ice", "line 1"),
    ] {
        let error = directory.refusal(text);
        assert!(error.contains(part), "{text}: {error}");
    }
    let error = directory.refusal("[signaling]\nbackends = [\"gopher://user:secret@x\"]");
    assert!(!error.contains("secret"), "{error}");
}

#[test]
fn a_named_file_must_exist_and_the_default_one_need_not() {
    let error = Config::load(Some(Path::new("/nonexistent/wice.toml"))).expect_err("missing");
    assert!(
        error
            .to_string()
            .contains("cannot read /nonexistent/wice.toml")
    );
}

#[test]
fn a_turn_server_is_opened_by_what_a_file_says() {
    let directory = Directory::new("turn");
    directory.write("credential", "geheim\n");
    let file = directory.0.join("credential");
    protect(&file, 0o600);
    let file = file.display();
    directory.write(
        "wice.toml",
        &format!(
            "[ice]\nservers = [{{ url = \"turns:a.example\", username = \"ann\", credential-file = \"{file}\" }}]\n"
        ),
    );
    let config = directory.load().expect("valid");
    let server = &config.servers[0];
    assert_eq!(server.url.to_string(), "turns:a.example:5349");
    assert_eq!(server.username, "ann");
    let credential = server.credential.as_ref().expect("a credential");
    assert_eq!(credential.expose(), "geheim");
    assert_eq!(config.warnings, Vec::<String>::new());

    protect(&directory.0.join("credential"), 0o644);
    let warnings = directory.load().expect("valid").warnings;
    assert!(warnings[0].contains("every user"), "{warnings:?}");
    assert!(!warnings[0].contains("geheim"), "{warnings:?}");
}

#[test]
fn a_turn_server_without_credentials_is_used_and_warned_of() {
    let directory = Directory::new("turn-open");
    directory.write(
        "wice.toml",
        "[ice]\nservers = [\"turn:a.example\", { url = \"turn:b.example?transport=tcp\" }, \"stun:c.example\"]\n",
    );
    let config = directory.load().expect("valid");
    assert_eq!(config.servers.len(), 3);
    assert_eq!(config.warnings.len(), 2);
    assert!(config.warnings[0].contains("turn:a.example:3478"));
}

#[test]
fn relays_may_be_forbidden_or_asked_for() {
    let directory = Directory::new("policy");
    for (text, policy, relay) in [
        ("", Policy::All, true),
        ("policy = \"direct\"\n", Policy::Direct, true),
        ("policy = \"relay\"\n", Policy::Relay, true),
        ("candidates = [\"host\"]\n", Policy::All, false),
    ] {
        directory.write("wice.toml", &format!("[ice]\n{text}"));
        let settings = directory.load().expect("valid").settings;
        assert_eq!(settings.policy, policy, "{text}");
        assert_eq!(settings.candidates.relay, relay, "{text}");
    }
}

#[test]
fn credentials_that_cannot_be_used_are_refused_with_what_to_do() {
    let directory = Directory::new("turn-bad");
    directory.write("empty", " \n");
    let empty = directory.0.join("empty");
    let empty = empty.display();
    for (server, part) in [
        (
            "{ url = \"turn:a\", username = \"u\" }",
            "goes with a credential-file",
        ),
        (
            "{ url = \"turn:a\", credential-file = \"/x\" }",
            "goes with a username",
        ),
        (
            "{ url = \"turn:a\", username = \"u\", credential-file = \"/nonexistent/x\" }",
            "cannot read /nonexistent/x",
        ),
        (
            "{ url = \"turn:a\", username = \"u\", credential-file = \"turn\" }",
            "LoadCredential=",
        ),
        (
            &format!("{{ url = \"turn:a\", username = \"u\", credential-file = \"{empty}\" }}"),
            "one line with the password",
        ),
        (
            "{ url = \"stun:a\", username = \"u\", credential-file = \"/x\" }",
            "did you mean turn:",
        ),
        (
            "{ url = \"turn:a\", username = \"\", credential-file = \"/x\" }",
            "1 to 508 bytes",
        ),
        ("{ url = \"turn:a\", user = \"u\" }", "credential-file"),
    ] {
        let error = directory.refusal(&format!("[ice]\nservers = [{server}]\n"));
        assert!(error.contains(part), "{server}: {error}");
    }
}

fn protect(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    let permissions = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(path, permissions).expect("the mode is set");
}

/// The example that packages install as /etc/wice/wice.toml.
const EXAMPLE: &str = include_str!("../../../packaging/wice.toml");

#[test]
fn the_example_sets_nothing() {
    let directory = Directory::new("example");
    directory.write("wice.toml", EXAMPLE);
    let example = directory.load().expect("valid");
    directory.write("wice.toml", "");
    let empty = directory.load().expect("valid");
    assert_eq!(format!("{example:?}"), format!("{empty:?}"));
}

#[test]
fn the_example_shows_every_key_and_each_is_valid() {
    // Its keys are commented out without a space, its text with one.
    let shown: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let read: toml::Table = shown.parse().expect("TOML");
    let keys = keys();
    assert!(keys.len() > 8, "{keys:?}");
    for key in keys {
        let mut table = &read;
        let (path, last) = key.rsplit_once('.').expect("a table and a key");
        for part in path.split('.') {
            // A table whose names are the user's has one example.
            table = match part {
                "*" => table.values().next(),
                name => table.get(name),
            }
            .and_then(toml::Value::as_table)
            .unwrap_or_else(|| panic!("the example has no [{path}]"));
        }
        assert!(table.contains_key(last), "the example does not show {key}");
    }
    let directory = Directory::new("shown");
    directory.write("token", "secret\n");
    let token = directory.0.join("token").display().to_string();
    let shown = shown
        .replace("/etc/wice/token", &token)
        .replace("turn-credential", &token);
    directory.write("wice.toml", &shown);
    directory.load().expect("what the example shows is valid");
}

/// All keys, asked of the reader itself: it names them when it meets one that it does not know.
fn keys() -> Vec<String> {
    let expected = |text: &str| -> Option<Vec<String>> {
        let error = super::file::parse(Path::new("x"), text).err()?.to_string();
        let (_, names) = error.split_once("unknown field `?`, expected ")?;
        let names = names.split("; did you mean").next()?.split('`');
        Some(names.skip(1).step_by(2).map(str::to_owned).collect())
    };
    let mut keys = Vec::new();
    for table in expected("\"?\" = 1").expect("tables") {
        let (path, names) = match expected(&format!("[{table}]\n\"?\" = 1")) {
            Some(names) => (table, names),
            None => {
                let named = format!("[{table}.name]\n\"?\" = 1");
                (format!("{table}.*"), expected(&named).expect("keys"))
            }
        };
        keys.extend(names.iter().map(|name| format!("{path}.{name}")));
    }
    keys
}
