//! What an agent keeps when the whole cluster fails it: its API server killed, its history gone, its definition removed.
//!
//! These change the cluster for everybody: one at a time.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps,
};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::super::BackendState;
use super::super::kubernetes::{NOW, Sight, Watch};
use super::cluster::{Cluster, tool};
use super::site::{Agent, PATIENCE, Site, config, mailbox, recipient};

const CRD: &str = include_str!("../../../../packaging/kubernetes/crd.yaml");
const NAME: &str = "offers.wice.org";

#[tokio::test]
#[ignore = "needs tests/kubernetes/cluster, alone"]
async fn offers_that_change_while_the_api_server_is_killed_arrive_when_it_is_back() {
    let cluster = Cluster::start().await;
    let mut bob = Agent::connected(&cluster).await;
    let mut alice = Agent::connected(&cluster).await;
    for number in 0..100 {
        bob.subscribe(number);
        alice.publish(number, "before");
    }
    alice.settled().await;
    for number in 0..100 {
        alice.publish(number, "being written when it dies");
    }
    tokio::task::yield_now().await;
    tool("kill");
    bob.state(BackendState::Failed).await;
    for number in 0..100 {
        alice.publish(number, "after");
    }
    alice.signaling.withdraw(mailbox(99));
    tool("resume");
    let ready = Instant::now();
    let mut newest = BTreeMap::new();
    let count = |newest: &BTreeMap<_, String>| newest.values().filter(|it| *it == "after").count();
    while count(&newest) < 99 {
        let (mailbox, text) = bob.message().await;
        newest.insert(mailbox, text);
    }
    alice.settled().await;
    eprintln!(
        "100 offers agree {:?} after the API server is ready",
        ready.elapsed()
    );
    let offers = cluster.offers().list(&Default::default()).await.unwrap();
    assert_eq!(offers.items.len(), 99);
}

#[tokio::test]
#[ignore = "needs tests/kubernetes/cluster, alone"]
async fn a_killed_api_server_is_not_told_again_what_it_keeps() {
    let cluster = Cluster::start().await;
    let mut alice = Agent::connected(&cluster).await;
    for number in 0..100 {
        alice.publish(number, "hello");
    }
    alice.settled().await;
    tool("kill");
    alice.state(BackendState::Failed).await;
    tool("resume");
    alice.state(BackendState::Connected).await;
    alice.publish(100, "news");
    alice.settled().await;
    // The counters are new as well.
    assert_eq!(cluster.writes().await, 1);
}

#[tokio::test]
#[ignore = "needs tests/kubernetes/cluster, alone"]
async fn a_history_that_is_compacted_under_the_watch_is_no_loss() {
    let cluster = Cluster::start().await;
    let mut bob = Agent::connected(&cluster).await;
    bob.subscribe(1);
    let mut alice = Agent::connected(&cluster).await;
    for round in 0..3 {
        let text = format!("before {round}");
        alice.publish(1, &text);
        bob.until(1, &text).await;
    }
    tool("kill");
    bob.state(BackendState::Failed).await;
    alice.publish(1, "after");
    tool("compact");
    tool("resume");
    bob.until(1, "after").await;
}

#[tokio::test]
#[ignore = "needs tests/kubernetes/cluster, alone"]
async fn a_position_that_is_too_old_makes_a_watch_begin_anew() {
    let cluster = Cluster::start().await;
    tool("kill");
    tool("compact");
    tool("resume");
    let params = WatchParams::default().fields(&format!("metadata.name={}", cluster.namespace));
    let namespaces: Api<Namespace> = Api::all(cluster.admin.clone());
    let mut watch = Watch::new(namespaces, params, "1".to_owned());
    let mut anew = false;
    loop {
        match watch.next().await.unwrap() {
            Sight::Anew => anew = true,
            Sight::Object(namespace) => {
                assert!(anew, "the server still knew what happened");
                assert_eq!(namespace.metadata.name, Some(cluster.namespace));
                // Until a bookmark comes, another watch would have to begin anew as well.
                return assert_eq!(watch.position(), NOW);
            }
            _ => {}
        }
    }
}

#[tokio::test]
#[ignore = "needs tests/kubernetes/cluster, alone"]
async fn without_the_definition_the_error_names_it_and_with_it_everything_is_written_again() {
    let cluster = Cluster::start().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.admin.clone());
    let mut alice = Agent::connected(&cluster).await;
    alice.publish(1, "hello");
    alice.settled().await;
    definitions
        .delete(NAME, &DeleteParams::default())
        .await
        .unwrap();
    let gone = async { while definitions.get_opt(NAME).await.unwrap().is_some() {} };
    timeout(PATIENCE, gone).await.expect("it goes");
    let mut bob = Agent::new(vec![config(cluster.url())]);
    bob.subscribe(1);
    alice.publish(2, "hello");
    for agent in [&mut alice, &mut bob] {
        let error = agent.state(BackendState::Failed).await.error.unwrap();
        assert!(
            error.contains("offers.wice.org/v1") && error.contains("packaging/kubernetes/crd.yaml"),
            "{error}"
        );
    }
    let definition: CustomResourceDefinition = serde_saphyr::from_str(CRD).unwrap();
    definitions
        .create(&PostParams::default(), &definition)
        .await
        .unwrap();
    bob.until(1, "hello").await;
}

#[tokio::test]
#[ignore = "needs tests/kubernetes/cluster, alone"]
async fn objects_of_a_foreign_version_are_left_alone() {
    let cluster = Cluster::start().await;
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.admin.clone());
    let mut loose = definitions.get(NAME).await.unwrap();
    let strict = loose.spec.clone();
    loose.spec.versions[0]
        .schema
        .as_mut()
        .unwrap()
        .open_api_v3_schema = Some(JSONSchemaProps {
        type_: Some("object".to_owned()),
        x_kubernetes_preserve_unknown_fields: Some(true),
        ..JSONSchemaProps::default()
    });
    definitions
        .replace(NAME, &PostParams::default(), &loose)
        .await
        .unwrap();
    let us = json!({ "wice.org/recipient": recipient().to_string() });
    let written = async {
        // The server needs a moment until it takes what it refused before.
        for (number, spec) in [
            json!({ "messages": ["a"], "until": 5 }),
            json!({ "message": 7, "expires": "2099-01-01T00:00:00Z" }),
            json!({ "message": "a", "expires": "never" }),
            json!("a"),
        ]
        .into_iter()
        .enumerate()
        {
            let name = mailbox(u16::try_from(number).unwrap()).to_string();
            let offer = json!({
                "apiVersion": "wice.org/v1", "kind": "Offer", "metadata": { "name": name, "labels": us }, "spec": spec,
            });
            let params = PatchParams::apply("somebody");
            let offers = cluster.offers();
            while offers
                .patch(&name, &params, &Patch::Apply(&offer))
                .await
                .is_err()
            {}
        }
    };
    timeout(PATIENCE, written).await.expect("a loose schema");
    let mut bob = Agent::new(vec![config(cluster.url())]);
    for number in 0..8 {
        bob.subscribe(number);
    }
    let mut alice = Agent::connected(&cluster).await;
    alice.publish(5, "hello");
    bob.expect(5, "hello").await;
    assert_eq!(bob.signaling.statuses()[0].error, None);
    let offers = cluster.offers();
    offers
        .delete_collection(&DeleteParams::default(), &Default::default())
        .await
        .unwrap();
    let mut again = definitions.get(NAME).await.unwrap();
    again.spec = strict;
    definitions
        .replace(NAME, &PostParams::default(), &again)
        .await
        .unwrap();
}

#[tokio::test]
#[ignore = "needs tests/kubernetes/cluster, alone"]
async fn an_idle_agent_writes_nothing_but_refreshes() {
    let cluster = Cluster::start().await;
    let mut alice = Agent::new(vec![config(cluster.url_of("agent", "&lifetime=10"))]);
    for number in 0..3 {
        alice.publish(number, "hello");
    }
    alice.settled().await;
    let before = cluster.writes().await;
    let offers = cluster.offers();
    let params = WatchParams::default();
    let version = offers.list(&Default::default()).await.unwrap();
    let version = version.metadata.resource_version.unwrap();
    let events = offers.watch(&params, &version).await.unwrap();
    let mut events = std::pin::pin!(events);
    let mut refreshed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    while refreshed.values().map(Vec::len).min().unwrap_or(0) < 3 || refreshed.len() < 3 {
        let event = timeout(PATIENCE, events.next()).await.expect("a refresh");
        let Some(Ok(WatchEvent::Modified(offer))) = event else {
            panic!("{event:?}");
        };
        assert_eq!(offer.data["spec"]["message"], "hello");
        let expires = offer.data["spec"]["expires"].as_str().unwrap().to_owned();
        refreshed
            .entry(offer.metadata.name.unwrap())
            .or_default()
            .push(expires);
    }
    for times in refreshed.values() {
        assert!(times.windows(2).all(|two| two[0] < two[1]), "{times:?}");
    }
    alice.settled().await;
    let refreshes: usize = refreshed.values().map(Vec::len).sum();
    assert_eq!(cluster.writes().await - before, refreshes as u64);
}
