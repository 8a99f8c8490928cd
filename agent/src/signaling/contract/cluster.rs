//! Namespaces of a genuine cluster, each with the Role that is shipped, and what only an administrator does in them.
//!
//! The cluster is that of tests/kubernetes/cluster, whose contexts these are.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding};
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
};
use kube::config::KubeConfigOptions;
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::time::timeout;
use url::Url;

use super::site::{PATIENCE, Site};

const RBAC: &str = include_str!("../../../../packaging/kubernetes/rbac.yaml");

/// A namespace of its own.
pub(super) struct Cluster {
    pub(super) namespace: String,
    pub(super) admin: Client,
}

impl Site for Cluster {
    async fn start() -> Self {
        let cluster = Self::without_rights().await;
        let namespace = &cluster.namespace;
        let mut documents = RBAC.split("\n---\n").skip(1);
        let mut role: Role = serde_saphyr::from_str(documents.next().unwrap()).unwrap();
        role.metadata.namespace = Some(namespace.clone());
        let mut binding: RoleBinding = serde_saphyr::from_str(documents.next().unwrap()).unwrap();
        binding.metadata.namespace = Some(namespace.clone());
        let params = PostParams::default();
        let roles = Api::namespaced(cluster.admin.clone(), namespace);
        roles.create(&params, &role).await.unwrap();
        let bindings = Api::namespaced(cluster.admin.clone(), namespace);
        bindings.create(&params, &binding).await.unwrap();
        cluster
    }

    fn url(&self) -> Url {
        self.url_of("agent", "")
    }
}

impl Cluster {
    /// A namespace in which only administrators may do anything.
    pub(super) async fn without_rights() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        // As `main` does it; only the first call in a process has an effect.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespace = format!("test-{}-{number}", std::process::id());
        let options = KubeConfigOptions {
            context: Some("admin".to_owned()),
            ..KubeConfigOptions::default()
        };
        let config = Config::from_kubeconfig(&options)
            .await
            .expect("runs under tests/kubernetes/cluster");
        let admin = Client::try_from(config).unwrap();
        let mut object = Namespace::default();
        object.metadata.name = Some(namespace.clone());
        let namespaces: Api<Namespace> = Api::all(admin.clone());
        namespaces
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
        Self { namespace, admin }
    }

    pub(super) fn url_of(&self, context: &str, settings: &str) -> Url {
        let namespace = &self.namespace;
        let url = format!("k8s://{context}?namespace={namespace}{settings}");
        url.parse().unwrap()
    }

    /// The offers, as anybody may write them.
    pub(super) fn offers(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("wice.org", "v1", "Offer");
        let resource = ApiResource::from_gvk(&kind);
        Api::namespaced_with(self.admin.clone(), &self.namespace, &resource)
    }

    /// Writes an offer as somebody with access to the namespace would.
    pub(super) async fn write(&self, name: &str, labels: Value, spec: Value) -> DynamicObject {
        let offer = json!({
            "apiVersion": "wice.org/v1", "kind": "Offer", "metadata": { "name": name, "labels": labels }, "spec": spec,
        });
        let params = PatchParams::apply("somebody").force();
        let offers = self.offers();
        let written = offers.patch(name, &params, &Patch::Apply(offer)).await;
        written.unwrap()
    }

    /// Waits until nobody has an offer of this name any more.
    pub(super) async fn gone(&self, name: &str) {
        let offers = self.offers();
        let gone = async { while offers.get_opt(name).await.unwrap().is_some() {} };
        timeout(PATIENCE, gone).await.expect("the offer is removed");
    }

    /// Changes what the agents' Role allows.
    pub(super) async fn change_role(&self, change: impl FnOnce(&mut Vec<PolicyRule>)) {
        let roles: Api<Role> = Api::namespaced(self.admin.clone(), &self.namespace);
        let mut role = roles.get("wice-agent").await.unwrap();
        change(role.rules.as_mut().unwrap());
        roles
            .replace("wice-agent", &PostParams::default(), &role)
            .await
            .unwrap();
    }

    /// Makes an account with the Role, in the place of the one of that name, whose tokens end with it; its token.
    pub(super) async fn account(&self, name: &str) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.admin.clone(), &self.namespace);
        let _ = accounts.delete(name, &DeleteParams::default()).await;
        let mut account = ServiceAccount::default();
        account.metadata.name = Some(name.to_owned());
        let params = PostParams::default();
        accounts.create(&params, &account).await.unwrap();
        let bindings: Api<RoleBinding> = Api::namespaced(self.admin.clone(), &self.namespace);
        let mut binding = bindings.get("wice-agent").await.unwrap();
        let subject = &mut binding.subjects.as_mut().unwrap()[0];
        subject.name = name.to_owned();
        subject.namespace = Some(self.namespace.clone());
        bindings
            .replace("wice-agent", &params, &binding)
            .await
            .unwrap();
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                expiration_seconds: Some(3600),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let request = accounts.create_token_request(name, &params, &request).await;
        request.unwrap().status.unwrap().token.unwrap()
    }

    /// How many times the server has been told to write an offer.
    pub(super) async fn writes(&self) -> u64 {
        let answered = self.answered().await;
        let count = |verb: &str| answered.get(verb).copied().unwrap_or(0);
        count("PATCH offers") + count("APPLY offers")
    }

    /// How many requests for offers and secrets the server has answered, by verb and resource; of a watch it counts
    /// the end, and those that are open apart.
    pub(super) async fn answered(&self) -> BTreeMap<String, u64> {
        let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
        let metrics = self.admin.request_text(request).await.unwrap();
        let mut answered = BTreeMap::new();
        for line in metrics.lines() {
            let open = line.starts_with("apiserver_longrunning_gauge{");
            if !open && !line.starts_with("apiserver_request_total{") {
                continue;
            }
            let label = |name: &str| {
                let rest = line.split_once(&format!("{name}=\""))?.1;
                rest.split('"').next()
            };
            let (Some(verb), Some(resource)) = (label("verb"), label("resource")) else {
                continue;
            };
            let count = line
                .rsplit(' ')
                .next()
                .and_then(|it| it.parse::<f64>().ok());
            if matches!(resource, "offers" | "secrets") {
                let sum = answered
                    .entry(match open {
                        true => format!("{verb} {resource} (open)"),
                        false => format!("{verb} {resource}"),
                    })
                    .or_insert(0);
                *sum += count.unwrap_or_default() as u64;
            }
        }
        answered
    }
}

/// Writes the file that the context `token-file` reads.
pub(super) fn write_token_file(token: &str) {
    std::fs::write(folder().join("agent.token"), token).unwrap();
}

/// Tells the cluster's tool to do something.
pub(super) fn tool(command: &'static str) {
    let tool = std::env::var_os("WICE_CLUSTER_TOOL").expect("runs under tests/kubernetes/cluster");
    let status = Command::new(tool)
        .arg(command)
        .arg(folder())
        .status()
        .unwrap();
    assert!(status.success(), "cluster {command}: {status}");
}

fn folder() -> PathBuf {
    PathBuf::from(std::env::var_os("WICE_CLUSTER").expect("runs under tests/kubernetes/cluster"))
}
