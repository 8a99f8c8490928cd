//! The requests to an API server, each within its limit of time, and what their refusals mean.
//!
//! Knows the server's resources; decides nothing about when to ask.

use std::time::Duration;

use futures_util::FutureExt;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{
    DeleteParams, ListParams, Patch, PatchParams, Preconditions, ValidationDirective, WatchParams,
};
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, KubeconfigError};
use kube::{Api, Config};
use openssl::asn1::Asn1Time;
use openssl::base64::decode_block;
use openssl::x509::X509;
use tokio::time::timeout;
use tower::util::MapResponseLayer;
use wice_core::mailbox::{Mailbox, Recipient};

use super::super::backend::BackendError;
use super::super::desired::Published;
use super::super::outbox::Written;
use super::clock::Clock;
use super::error::{Call, Refused, TryTo};
use super::offer::{self, Offer};
use super::place::Place;
use super::watch::Watch;

/// One way to one namespace; clones share the connections.
#[derive(Clone)]
pub(super) struct Client {
    offers: Api<Offer>,
    secrets: Api<Secret>,
    namespace: String,
    lifetime: Duration,
    clock: Clock,
}

/// Longest time for a request that the server answers at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Under this name the server keeps what is ours in an offer (server-side apply).
const MANAGER: &str = "wice";
/// The Secret with the servers that help to find a path (protocol §6).
const SERVERS: &str = "wice-ice-servers";
/// Offers in one answer when what is over is looked for.
const PAGE: u32 = 100;
/// How long a server that has too much to do is left alone, unless it says so itself.
const TOO_MUCH: Duration = Duration::from_secs(1);

impl Client {
    /// Reads the kubeconfig or the service account anew, and connects to nothing yet.
    pub(super) async fn new(place: &Place, clock: &Clock) -> Result<Self, BackendError> {
        let mut config = match configuration(place).await {
            Ok(config) => config,
            Err(problem) => {
                let context = place.shown_context();
                return Err(Refused::Configuration { context, problem }.into());
            }
        };
        if let Some(expired) = expired(&config) {
            return Err(Refused::Expired { expired }.into());
        }
        // A refusal is to be seen, and each agent has its own pace to come back.
        config.default_retry = false;
        let namespace = place
            .namespace
            .clone()
            .unwrap_or_else(|| config.default_namespace.clone());
        // An exec plugin runs at once, and may take seconds.
        let builder = tokio::task::spawn_blocking(|| ClientBuilder::try_from(config)).await;
        let builder = match builder {
            Ok(Ok(builder)) => builder,
            Ok(Err(error)) => {
                let context = place.shown_context();
                let problem = Call::setup(error);
                return Err(Refused::Configuration { context, problem }.into());
            }
            Err(_) => return Err(BackendError::Panicked),
        };
        let observed = clock.clone();
        let layer = MapResponseLayer::new(move |response: http::Response<_>| {
            observed.observe(response.headers());
            response
        });
        let client = builder.with_layer(&layer).build();
        Ok(Self {
            offers: Api::namespaced(client.clone(), &namespace),
            secrets: Api::namespaced(client, &namespace),
            namespace,
            lifetime: place.lifetime,
            clock: clock.clone(),
        })
    }

    /// The server's clock.
    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Asks for something small that needs the definition and a right.
    pub(super) async fn hello(self) -> Result<(), BackendError> {
        let few = ListParams::default().limit(1);
        let answer = self.offers.list_metadata(&few);
        self.answer(TryTo::List, answer).await.map(drop)
    }

    /// Watches the offers of one reader, from a position on.
    pub(super) fn watch_offers(&self, recipient: Recipient, position: String) -> Watch<Offer> {
        let params = WatchParams::default().labels(&offer::of(recipient));
        Watch::new(self.offers.clone(), params, position)
    }

    /// Watches the Secret with the servers.
    pub(super) fn watch_servers(&self) -> Watch<Secret> {
        let params = WatchParams::default().fields(&format!("metadata.name={SERVERS}"));
        Watch::new(self.secrets.clone(), params, super::watch::NOW.to_owned())
    }

    /// The offer in a mailbox; none where there is something that is no offer of this version.
    pub(super) async fn read(self, mailbox: Mailbox) -> Result<Option<Offer>, BackendError> {
        let name = mailbox.to_string();
        let answer = self.offers.get_opt(&name).map(|answer| match answer {
            Err(kube::Error::SerdeError(_)) => Ok(None),
            answer => answer,
        });
        self.answer(TryTo::Get, answer).await
    }

    /// Replaces the offer in a mailbox, or removes it.
    pub(super) async fn write(
        self,
        mailbox: Mailbox,
        published: Option<Published>,
    ) -> Result<Written, BackendError> {
        let name = mailbox.to_string();
        let (tried, answer) = match published {
            Some(published) => {
                let (recipient, sealed) = (published.recipient, published.sealed);
                let now = self.clock.now();
                let offer = Offer::sealed(mailbox, recipient, &sealed, now, self.lifetime);
                let mut params = PatchParams::apply(MANAGER).force();
                params.field_validation = Some(ValidationDirective::Ignore);
                let patch = Patch::Apply(offer);
                let answer = self.offers.patch(&name, &params, &patch);
                (
                    TryTo::Patch,
                    timeout(ANSWER_TIMEOUT, answer).await.map(|it| it.map(drop)),
                )
            }
            None => {
                let params = DeleteParams::default();
                let answer = self.offers.delete(&name, &params);
                (
                    TryTo::Delete,
                    timeout(ANSWER_TIMEOUT, answer).await.map(|it| it.map(drop)),
                )
            }
        };
        match answer {
            Ok(Ok(())) => Ok(Written::Done),
            Ok(Err(kube::Error::Api(status))) if status.code == 429 => {
                let seconds = status.details.as_ref().map(|it| it.retry_after_seconds);
                let ordered = Duration::from_secs(seconds.unwrap_or_default().into());
                Ok(Written::Later(ordered.max(TOO_MUCH)))
            }
            Ok(Err(kube::Error::Api(status)))
                if tried == TryTo::Delete && Call::is_absent(&status, &name) =>
            {
                Ok(Written::Done)
            }
            Ok(Err(error)) => Err(self.refusal(tried, error)),
            Err(_) => Err(silent(tried)),
        }
    }

    /// Finds offers that nobody has refreshed; at most a page of them, and which of them are not over yet.
    pub(super) async fn list_over(&self) -> Result<Vec<Offer>, BackendError> {
        let now = self.clock.now();
        let params = ListParams::default()
            .labels(&offer::over(now, self.lifetime))
            .limit(PAGE);
        let found = self.answer(TryTo::List, self.offers.list(&params)).await?;
        let over = found.items.into_iter().filter(|offer| offer.is_over(now));
        Ok(over.collect())
    }

    /// Removes an offer that is over, unless somebody has refreshed it meanwhile.
    pub(super) async fn remove(&self, offer: Offer) -> Result<(), BackendError> {
        let Some(name) = offer.metadata.name else {
            return Ok(());
        };
        let params = DeleteParams::default().preconditions(Preconditions {
            resource_version: offer.metadata.resource_version,
            uid: offer.metadata.uid,
        });
        let answer = timeout(ANSWER_TIMEOUT, self.offers.delete(&name, &params)).await;
        match answer {
            Ok(Ok(_)) => Ok(()),
            // Somebody was faster, or it lives.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(()),
            Ok(Err(error)) => Err(self.refusal(TryTo::Delete, error)),
            Err(_) => Err(silent(TryTo::Delete)),
        }
    }

    /// What a refusal amounts to.
    pub(super) fn refusal(&self, tried: TryTo, error: kube::Error) -> BackendError {
        Call {
            tried,
            namespace: &self.namespace,
        }
        .refusal(error)
    }

    async fn answer<T>(
        &self,
        tried: TryTo,
        answer: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, BackendError> {
        match timeout(ANSWER_TIMEOUT, answer).await {
            Ok(answer) => answer.map_err(|error| self.refusal(tried, error)),
            Err(_) => Err(silent(tried)),
        }
    }
}

fn silent(tried: TryTo) -> BackendError {
    BackendError::Silent {
        tried: tried.words(),
        within: ANSWER_TIMEOUT,
    }
}

/// When the client certificate has expired, if it has: the server only says that it does not know who asks.
fn expired(config: &Config) -> Option<String> {
    let user = &config.auth_info;
    let pem = match (&user.client_certificate_data, &user.client_certificate) {
        (Some(data), _) => decode_block(data).ok()?,
        (None, Some(path)) => std::fs::read(path).ok()?,
        (None, None) => return None,
    };
    let certificate = X509::from_pem(&pem).ok()?;
    let until = certificate.not_after();
    (until < Asn1Time::days_from_now(0).ok()?).then(|| until.to_string())
}

/// The context that is named, else what the environment names, else the cluster that the agent runs in.
async fn configuration(place: &Place) -> Result<Config, String> {
    let inside = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let named = place.context.is_some() || std::env::var_os("KUBECONFIG").is_some();
    if inside && !named {
        return Config::incluster().map_err(|error| error.to_string());
    }
    let options = KubeConfigOptions {
        context: place.context.clone(),
        ..KubeConfigOptions::default()
    };
    Config::from_kubeconfig(&options)
        .await
        .map_err(|error| match error {
            KubeconfigError::LoadContext(_) => "the kubeconfig has no such context".to_owned(),
            KubeconfigError::CurrentContextNotSet => {
                "the kubeconfig has no current context".to_owned()
            }
            error => error.to_string(),
        })
}
