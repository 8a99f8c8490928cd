//! What a program of WICE says of itself: version, commit and features. For build scripts; holds no date, no host and no
//! path, so that the same sources give the same text.

use std::env;
use std::fs;

/// Sets `WICE_VERSION` for the crate whose build script calls this.
pub fn emit() {
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let text = text(&version, commit().as_deref(), &features());
    println!("cargo::rustc-env=WICE_VERSION={text}");
}

/// Puts the parts together: `0.1.0 (0123456789ab; http, websocket)`.
fn text(version: &str, commit: Option<&str>, features: &[String]) -> String {
    // Twelve digits tell any two commits of a large repository apart.
    let commit = commit.map_or("development build", |commit| {
        &commit[..commit.len().min(12)]
    });
    if features.is_empty() {
        format!("{version} ({commit})")
    } else {
        format!("{version} ({commit}; {})", features.join(", "))
    }
}

/// Finds the commit: what `git archive` wrote into a tarball, else what the builder says (`WICE_COMMIT`). Git is not asked:
/// every commit would compile the programs anew.
fn commit() -> Option<String> {
    let written = concat!(env!("CARGO_MANIFEST_DIR"), "/commit");
    println!("cargo::rerun-if-changed={written}");
    println!("cargo::rerun-if-env-changed=WICE_COMMIT");
    let written = fs::read_to_string(written).ok();
    let told = || env::var("WICE_COMMIT").ok();
    written
        .and_then(|text| hash(&text))
        .or_else(|| told().and_then(|text| hash(&text)))
}

/// Takes nothing but a hash: the file that `git archive` has not touched holds something else.
fn hash(text: &str) -> Option<String> {
    let text = text.trim();
    let is_hash = text.len() >= 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| text.to_ascii_lowercase())
}

/// Lists the crate's features that are on, as Cargo tells a build script, without `default`.
fn features() -> Vec<String> {
    let mut names: Vec<String> = env::vars()
        .filter_map(|(name, _)| Some(name.strip_prefix("CARGO_FEATURE_")?.to_lowercase()))
        .filter(|name| name != "default")
        .map(|name| name.replace('_', "-"))
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_names_commit_and_features() {
        let features = ["http".to_owned(), "websocket".to_owned()];
        let commit = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(
            text("1.2.3", Some(commit), &features),
            "1.2.3 (0123456789ab; http, websocket)"
        );
        assert_eq!(text("1.2.3", Some(commit), &[]), "1.2.3 (0123456789ab)");
        assert_eq!(text("1.2.3", None, &[]), "1.2.3 (development build)");
    }

    #[test]
    fn a_placeholder_is_no_commit() {
        assert_eq!(hash("$Format:%H$\n"), None);
        assert_eq!(hash("0123456789AB\n").as_deref(), Some("0123456789ab"));
    }
}
