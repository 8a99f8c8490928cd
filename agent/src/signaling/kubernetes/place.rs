//! Where the offers lie: what a URL `k8s:[//context][?namespace=N][&lifetime=SECONDS]` says.
//!
//! Reads no file; whether there is such a context shows when the agent connects.

use std::time::Duration;

use url::Url;

/// A namespace of a cluster, and how long offers last there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The context of the kubeconfig; `None` for its current one, or for the cluster that the agent runs in.
    pub(super) context: Option<String>,
    /// `None` for the one that the context or the service account names.
    pub(super) namespace: Option<String>,
    /// How long an offer holds when its writer is gone.
    pub(super) lifetime: Duration,
}

/// A writer that lives refreshes its offers every half of it, so this times the number of pairs is what an idle cluster
/// writes; a node that is gone leaves its offers behind for as long.
const LIFETIME: Duration = Duration::from_secs(4 * 60 * 60);
/// Shorter ones would be refreshed all the time, and a longer one outlives every use.
const LIFETIMES: std::ops::RangeInclusive<u64> = 10..=30 * 24 * 60 * 60;
/// RFC 1123: the length of a label.
const MAX_NAMESPACE: usize = 63;

/// Why a URL names no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlaceError {
    /// More than a context before the query.
    #[error(
        "expected k8s:?namespace=NAME or k8s://CONTEXT?namespace=NAME; in CONTEXT write @ as %40, : as %3A and / as %2F"
    )]
    Form,
    /// A key of the query that has no meaning, perhaps misspelt.
    #[error("unknown setting {0:?}; known are namespace and lifetime")]
    Setting(String),
    /// Not what Kubernetes allows as a name.
    #[error(
        "{0:?} can be no namespace: expected at most 63 of a-z, 0-9 and -, a letter or digit at both ends"
    )]
    Namespace(String),
    /// No number, or one that makes no sense.
    #[error("lifetime {0:?}: expected seconds, from 10 to 2592000")]
    Lifetime(String),
}

impl Place {
    /// Reads a URL.
    pub(crate) fn parse(url: &Url) -> Result<Self, PlaceError> {
        let more = !url.username().is_empty() || url.password().is_some() || url.port().is_some();
        if more || !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return Err(PlaceError::Form);
        }
        let context = url.host_str().filter(|host| !host.is_empty());
        let context = context.map(decode).transpose()?;
        let mut place = Self {
            context,
            namespace: None,
            lifetime: LIFETIME,
        };
        for (key, value) in url.query_pairs() {
            match key.as_ref() {
                "namespace" if is_label(&value) => place.namespace = Some(value.into_owned()),
                "namespace" => return Err(PlaceError::Namespace(value.into_owned())),
                "lifetime" => match value.parse() {
                    Ok(seconds) if LIFETIMES.contains(&seconds) => {
                        place.lifetime = Duration::from_secs(seconds);
                    }
                    _ => return Err(PlaceError::Lifetime(value.into_owned())),
                },
                _ => return Err(PlaceError::Setting(key.into_owned())),
            }
        }
        Ok(place)
    }

    /// The context, for people.
    pub(super) fn shown_context(&self) -> String {
        match &self.context {
            Some(context) => format!("the context {context:?}"),
            None => "the current context, or the cluster that the agent runs in".to_owned(),
        }
    }
}

/// A context as it is called in the kubeconfig: a URL's host takes only some characters as they are.
fn decode(host: &str) -> Result<String, PlaceError> {
    let mut bytes = Vec::with_capacity(host.len());
    let mut rest = host.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || rest.next().and_then(|it| char::from(it).to_digit(16));
            let code = digit()
                .zip(digit())
                .and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
            bytes.push(code.ok_or(PlaceError::Form)?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).map_err(|_| PlaceError::Form)
}

/// Tells whether a text is a label as in RFC 1123.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    (1..=MAX_NAMESPACE).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Place, PlaceError> {
        Place::parse(&text.parse().unwrap())
    }

    #[test]
    fn a_url_names_context_and_namespace_or_leaves_them_out() {
        let place = parse("k8s:").unwrap();
        assert_eq!((place.context, place.namespace), (None, None));
        let place = parse("k8s:?namespace=wice").unwrap();
        assert_eq!(place.namespace.as_deref(), Some("wice"));
        assert_eq!((place.context, place.lifetime), (None, LIFETIME));
        let place = parse("k8s://home?namespace=wice&lifetime=60").unwrap();
        assert_eq!(place.context.as_deref(), Some("home"));
        assert_eq!(place.lifetime, Duration::from_secs(60));
    }

    #[test]
    fn a_context_may_hold_what_a_host_may_not() {
        let place = parse("k8s://Admin%40Home").unwrap();
        assert_eq!(place.context.as_deref(), Some("Admin@Home"));
        let place = parse("k8s://arn%3Aaws%3Aeks%3Aus-1%3A1%3Acluster%2Fa?namespace=n").unwrap();
        assert_eq!(
            place.context.as_deref(),
            Some("arn:aws:eks:us-1:1:cluster/a")
        );
    }

    #[test]
    fn a_url_that_names_no_place_says_what_is_wrong() {
        for form in [
            "k8s://admin@home",
            "k8s://home/wice",
            "k8s:wice",
            "k8s://a:1",
            "k8s:#a",
        ] {
            assert_eq!(parse(form), Err(PlaceError::Form), "{form}");
        }
        let misspelt = parse("k8s:?namespaces=wice").unwrap_err().to_string();
        assert!(misspelt.contains("\"namespaces\""), "{misspelt}");
        for namespace in ["", "Wice", "-a", "a-", "a.b", &"a".repeat(64)] {
            let error = parse(&format!("k8s:?namespace={namespace}")).unwrap_err();
            assert_eq!(error, PlaceError::Namespace(namespace.to_owned()));
        }
        for lifetime in ["", "9", "-1", "forever"] {
            let error = parse(&format!("k8s:?lifetime={lifetime}")).unwrap_err();
            assert_eq!(error, PlaceError::Lifetime(lifetime.to_owned()));
        }
    }
}
