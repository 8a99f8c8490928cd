//! What an API server refuses, in words that say what was tried, what came back and what to do.

use kube::core::Status;

use super::super::backend::BackendError;
use crate::logging::causes;

/// A refusal that only an API server, or what leads to one, gives.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// There is no way to a cluster.
    #[error(
        "tried to find the cluster by {context}: {problem}; name a context of the kubeconfig as in k8s://CONTEXT, \
         the kubeconfig by KUBECONFIG, or run in a cluster with a service account"
    )]
    Configuration {
        /// What was looked for.
        context: String,
        /// What is wrong.
        problem: String,
    },
    /// The definition is not installed.
    #[error(
        "tried to {tried}: the API server knows no offers.wice.org/v1; apply packaging/kubernetes/crd.yaml"
    )]
    NoDefinition {
        /// What was tried.
        tried: &'static str,
    },
    /// There is no such namespace.
    #[error(
        "tried to {tried} in namespace {namespace}: there is none; apply packaging/kubernetes/namespace.yaml, or \
         name another as in k8s:?namespace=NAME"
    )]
    NoNamespace {
        /// What was tried.
        tried: &'static str,
        /// The namespace.
        namespace: String,
    },
    /// A right is missing.
    #[error(
        "tried to {tried}: the agent may not {verb} {resource} in namespace {namespace}: {answer}; apply \
         packaging/kubernetes/rbac.yaml, and bind its Role to the agent's account"
    )]
    Forbidden {
        /// What was tried.
        tried: &'static str,
        /// The verb of the missing rule.
        verb: &'static str,
        /// The resource of the missing rule.
        resource: &'static str,
        /// The namespace.
        namespace: String,
        /// What the server says.
        answer: String,
    },
    /// The server does not know who is asking.
    #[error(
        "tried to {tried}: the API server answered 401: it does not accept the token or the client certificate; \
         they may have expired: renew them in the kubeconfig"
    )]
    Unauthorized {
        /// What was tried.
        tried: &'static str,
    },
    /// The server would not know who is asking.
    #[error(
        "the kubeconfig's client certificate expired {expired}; renew it, or name another context"
    )]
    Expired {
        /// When.
        expired: String,
    },
    /// The server has another idea of an offer.
    #[error(
        "tried to {tried}: the API server does not take our offers: {answer}; apply packaging/kubernetes/crd.yaml of \
         this version"
    )]
    Unacceptable {
        /// What was tried.
        tried: &'static str,
        /// What the server says.
        answer: String,
    },
    /// Anything else.
    #[error(
        "tried to {tried} in namespace {namespace}: the API server answered {code}: {answer}; check the cluster"
    )]
    Answer {
        /// What was tried.
        tried: &'static str,
        /// The namespace.
        namespace: String,
        /// HTTP status.
        code: u16,
        /// What the server says.
        answer: String,
    },
}

impl From<Refused> for BackendError {
    fn from(refused: Refused) -> Self {
        Self::Special(refused.into())
    }
}

/// What is asked of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TryTo {
    Watch,
    List,
    Get,
    Patch,
    Delete,
    WatchServers,
}

impl TryTo {
    /// For people.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Watch => "watch our offers",
            Self::List => "list offers",
            Self::Get => "read an offer",
            Self::Patch => "write an offer",
            Self::Delete => "remove an offer",
            Self::WatchServers => "watch the Secret wice-ice-servers",
        }
    }

    /// As in a Role.
    const fn verb(self) -> &'static str {
        match self {
            Self::Watch | Self::WatchServers => "watch",
            Self::List => "list",
            Self::Get => "get",
            // An object that is not there yet is created by a patch, which takes both.
            Self::Patch => "create and patch",
            Self::Delete => "delete",
        }
    }

    /// As in a Role, with its group.
    const fn resource(self) -> &'static str {
        match self {
            Self::WatchServers => "secrets",
            _ => "offers.wice.org",
        }
    }
}

/// A request that failed.
pub(super) struct Call<'a> {
    pub(super) tried: TryTo,
    pub(super) namespace: &'a str,
}

/// What fails when there is no answer at all, whatever was asked: one outage is one message.
const REACH: &str = "reach the API server";
/// Most of a server's text that is shown.
const MAX_ANSWER: usize = 240;

impl Call<'_> {
    /// Tells whether an answer says that the very object is absent, not that the server knows no such objects.
    pub(super) fn is_absent(status: &Status, name: &str) -> bool {
        let details = status.details.as_ref();
        status.code == 404 && details.is_some_and(|it| it.name == name)
    }

    /// What the error of a request amounts to.
    pub(super) fn refusal(&self, error: kube::Error) -> BackendError {
        let tried = self.tried.words();
        match error {
            kube::Error::Api(status) => self.answered(&status).into(),
            kube::Error::SerdeError(_) | kube::Error::FromUtf8(_) => BackendError::Special(
                format!("tried to {tried}: the answer is not what an API server says; check the kubeconfig's server")
                    .into(),
            ),
            kube::Error::Service(source) => BackendError::Unreachable {
                tried: REACH,
                source,
            },
            kube::Error::Auth(_) => BackendError::Special(
                format!("tried to {tried}: {}; check the kubeconfig's user", Self::setup(error)).into(),
            ),
            error => BackendError::Unreachable {
                tried: REACH,
                source: error.into(),
            },
        }
    }

    /// Says why no client could be made. What a plugin printed may be a token.
    pub(super) fn setup(error: kube::Error) -> String {
        use kube::client::AuthError;
        match error {
            kube::Error::Auth(AuthError::AuthExecRun { cmd, out }) => {
                format!("the credential plugin {cmd:?} failed with {}", out.status)
            }
            kube::Error::Auth(AuthError::AuthExecParse(_)) => {
                "the credential plugin printed no ExecCredential".to_owned()
            }
            error => causes(&error),
        }
    }

    fn answered(&self, status: &Status) -> Refused {
        let tried = self.tried.words();
        let namespace = self.namespace.to_owned();
        let answer = shown(&status.message);
        match status.code {
            401 => Refused::Unauthorized { tried },
            403 => Refused::Forbidden {
                tried,
                verb: self.tried.verb(),
                resource: self.tried.resource(),
                namespace,
                answer,
            },
            404 if status.message.starts_with("namespaces ") => {
                Refused::NoNamespace { tried, namespace }
            }
            404 => Refused::NoDefinition { tried },
            400 | 415 | 422 => Refused::Unacceptable { tried, answer },
            code => Refused::Answer {
                tried,
                namespace,
                code,
                answer,
            },
        }
    }
}

fn shown(text: &str) -> String {
    let text = text
        .trim()
        .chars()
        .map(|it| if it.is_control() { ' ' } else { it });
    text.take(MAX_ANSWER).collect()
}

/// Tells whether an error says that a position is too old, or not of this server's history.
pub(super) fn is_gone(status: &Status) -> bool {
    let too_large = |status: &Status| {
        let causes = status.details.iter().flat_map(|it| &it.causes);
        causes
            .into_iter()
            .any(|it| it.reason == "ResourceVersionTooLarge")
    };
    status.code == 410 || too_large(status)
}
