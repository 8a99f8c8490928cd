//! Namespaces of a genuine cluster, each with the Role that is shipped, and what only an administrator does in them.
//!
//! The cluster is that of tests/kubernetes/cluster, whose contexts these are.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use kube::config::KubeConfigOptions;
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use url::Url;

use super::site::Site;

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

    /// How many requests of a kind the server has answered.
    pub(super) async fn requests(&self, verb: &str, resource: &str) -> u64 {
        let request = http::Request::get("/metrics").body(Vec::new()).unwrap();
        let metrics = self.admin.request_text(request).await.unwrap();
        let lines = metrics.lines();
        let of = |line: &&str| {
            line.starts_with("apiserver_request_total{")
                && line.contains(&format!("verb=\"{verb}\""))
                && line.contains(&format!("resource=\"{resource}\""))
        };
        let counts = lines
            .filter(of)
            .map(|line| line.rsplit(' ').next().unwrap());
        counts
            .map(|count| count.parse::<f64>().unwrap() as u64)
            .sum()
    }
}

/// Tells the cluster's tool to do something.
pub(super) fn tool(command: &'static str) {
    let variable =
        |name| PathBuf::from(std::env::var_os(name).expect("runs under tests/kubernetes/cluster"));
    let status = Command::new(variable("WICE_CLUSTER_TOOL"))
        .arg(command)
        .arg(variable("WICE_CLUSTER"))
        .status()
        .unwrap();
    assert!(status.success(), "cluster {command}: {status}");
}
