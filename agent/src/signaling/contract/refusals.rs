//! What a cluster refuses, and what others put into it: each says what to do, and none stops anything else.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::super::{BackendState, Event};
use super::cluster::{Cluster, write_token_file};
use super::site::{Agent, Memory, PATIENCE, Site, config, mailbox, recipient};

#[tokio::test]
#[ignore = "needs tests/kubernetes/cluster"]
async fn a_missing_right_is_an_error_that_names_verb_resource_and_manifest() {
    let cluster = Cluster::without_rights().await;
    for (subscribed, verb) in [(true, "watch"), (false, "list")] {
        let mut agent = Agent::new(vec![config(cluster.url())]);
        if subscribed {
            agent.subscribe(1);
        }
        let error = failure(&mut agent).await;
        let right = format!(
            "may not {verb} offers.wice.org in namespace {}",
            cluster.namespace
        );
        for part in [&right, "packaging/kubernetes/rbac.yaml", "is forbidden"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}

#[tokio::test]
#[ignore = "needs tests/kubernetes/cluster"]
async fn a_right_that_only_writing_needs_is_named_too() {
    let cluster = Cluster::start().await;
    cluster
        .change_role(|rules| rules[0].verbs.retain(|verb| verb != "create"))
        .await;
    let mut agent = Agent::new(vec![config(cluster.url())]);
    agent.subscribe(1);
    agent.publish(2, "hello");
    let error = failure(&mut agent).await;
    assert!(
        error.contains("may not create and patch offers.wice.org"),
        "{error}"
    );
}

#[tokio::test]
#[ignore = "needs tests/kubernetes/cluster"]
async fn a_cluster_that_refuses_leaves_other_backends_alone() {
    let cluster = Cluster::without_rights().await;
    let memory = Memory::start().await;
    let both = || vec![config(cluster.url_of("nobody", "")), config(memory.url())];
    let (mut alice, mut bob) = (Agent::new(both()), Agent::new(both()));
    bob.subscribe(1);
    failure(&mut bob).await;
    alice.publish(1, "hello");
    bob.expect(1, "hello").await;
    let states = bob.signaling.statuses().into_iter().map(|it| it.state);
    let expected = [BackendState::Failed, BackendState::Connected];
    assert_eq!(states.collect::<Vec<_>>(), expected);
}

#[tokio::test]
#[ignore = "needs tests/kubernetes/cluster"]
async fn a_wrong_context_is_an_error_that_names_it() {
    let cluster = Cluster::start().await;
    let mut agent = Agent::new(vec![config(cluster.url_of("mars", ""))]);
    let error = failure(&mut agent).await;
    assert!(
        error.contains("\"mars\"") && error.contains("no such context"),
        "{error}"
    );
}

#[tokio::test]
#[ignore = "needs tests/kubernetes/cluster"]
async fn an_expired_certificate_is_an_error_that_says_so() {
    let cluster = Cluster::start().await;
    let mut agent = Agent::new(vec![config(cluster.url_of("expired", ""))]);
    let error = failure(&mut agent).await;
    assert!(error.contains("client certificate expired"), "{error}");
}

#[tokio::test]
#[ignore = "needs tests/kubernetes/cluster"]
async fn a_server_with_a_certificate_of_another_ca_is_not_trusted() {
    let cluster = Cluster::start().await;
    let mut agent = Agent::new(vec![config(cluster.url_of("elsewhere", ""))]);
    agent.publish(1, "hello");
    let error = failure(&mut agent).await;
    assert!(error.contains("certificate"), "{error}");
}

#[tokio::test]
#[ignore = "needs tests/kubernetes/cluster"]
async fn a_namespace_that_is_not_there_is_an_error_that_names_it() {
    let cluster = Cluster::start().await;
    let url = "k8s://admin?namespace=nowhere".parse().unwrap();
    let mut agent = Agent::new(vec![config(url)]);
    agent.publish(1, "hello");
    let error = failure(&mut agent).await;
    assert!(
        error.contains("in namespace nowhere: there is none"),
        "{error}"
    );
    drop(cluster);
}

#[tokio::test]
#[ignore = "needs tests/kubernetes/cluster"]
async fn what_is_no_offer_is_refused_by_the_schema() {
    let cluster = Cluster::start().await;
    let offers = cluster.offers();
    let expires = later(60);
    for spec in [
        json!({}),
        json!({ "expires": expires }),
        json!({ "message": "a" }),
        json!({ "message": "", "expires": expires }),
        json!({ "message": "x".repeat(16385), "expires": expires }),
        json!({ "message": "a", "expires": "tomorrow" }),
    ] {
        let offer = json!({
            "apiVersion": "wice.org/v1", "kind": "Offer", "metadata": { "name": "a" }, "spec": spec,
        });
        let params = PatchParams::apply("somebody");
        let refused = offers.patch("a", &params, &Patch::Apply(&offer)).await;
        match refused.unwrap_err() {
            kube::Error::Api(status) => assert_eq!(status.code, 422, "{offer}"),
            error => panic!("{error}"),
        }
    }
}

#[tokio::test]
#[ignore = "needs tests/kubernetes/cluster"]
async fn a_thousand_offers_of_others_change_nothing() {
    let cluster = Cluster::start().await;
    let spec = json!({ "message": "x".repeat(2000), "expires": later(600) });
    let others = json!({ "wice.org/recipient": "00" });
    for number in 0..1000 {
        let name = mailbox(2000 + number).to_string();
        cluster.write(&name, others.clone(), spec.clone()).await;
    }
    // Named like no mailbox, and like one that nobody of ours reads.
    for name in ["a", &mailbox(9).to_string()] {
        cluster.write(name, to_us(), spec.clone()).await;
    }
    let mut bob = Agent::new(vec![config(cluster.url())]);
    bob.subscribe(1);
    let mut alice = Agent::connected(&cluster).await;
    alice.publish(1, "hello");
    bob.expect(1, "hello").await;
    bob.subscribe(2);
    alice.publish(2, "to a mailbox that is wanted later");
    bob.expect(2, "to a mailbox that is wanted later").await;
}

#[tokio::test]
#[ignore = "needs tests/kubernetes/cluster"]
async fn somebody_who_writes_into_our_mailboxes_can_only_disturb() {
    let cluster = Cluster::start().await;
    let mut bob = Agent::connected(&cluster).await;
    bob.subscribe(1);
    let mut alice = Agent::connected(&cluster).await;
    alice.publish(1, "hello");
    bob.expect(1, "hello").await;
    let name = mailbox(1).to_string();
    let spec = json!({ "message": "forged", "expires": later(600) });
    cluster.write(&name, to_us(), spec.clone()).await;
    // Whether it is an offer is for the reader to find out: here it is text.
    bob.expect(1, "forged").await;
    // Taking the object over does not keep its writer from it, nor does hiding it from its reader.
    cluster
        .write(&name, json!({ "wice.org/recipient": "00" }), spec)
        .await;
    alice.publish(1, "again");
    bob.until(1, "again").await;
    cluster
        .offers()
        .delete(&name, &DeleteParams::default())
        .await
        .unwrap();
    alice.publish(1, "and again");
    bob.until(1, "and again").await;
    assert_eq!(bob.signaling.statuses()[0].state, BackendState::Connected);
}

#[tokio::test]
#[ignore = "needs tests/kubernetes/cluster"]
async fn an_offer_that_is_over_is_not_delivered_and_removed_by_who_finds_it() {
    let cluster = Cluster::start().await;
    let name = mailbox(1).to_string();
    let over = json!({ "message": "old", "expires": later(-60) });
    cluster.write(&name, to_us(), over).await;
    let mut bob = Agent::connected(&cluster).await;
    bob.subscribe(1);
    cluster.gone(&name).await;
    let mut alice = Agent::connected(&cluster).await;
    alice.publish(1, "new");
    bob.expect(1, "new").await;
}

#[tokio::test]
#[ignore = "needs tests/kubernetes/cluster"]
async fn what_is_over_is_swept_up_whoever_was_to_read_it() {
    let cluster = Cluster::start().await;
    let labels = |hours: i64| {
        let hour = Timestamp::now() + SignedDuration::from_hours(hours);
        json!({ "wice.org/recipient": "00", "wice.org/expires": hour.strftime("%Y-%m-%dT%H").to_string() })
    };
    let (over, alive) = (mailbox(1).to_string(), mailbox(2).to_string());
    let message = |seconds| json!({ "message": "old", "expires": later(seconds) });
    cluster.write(&over, labels(-3), message(-3 * 3600)).await;
    // Its label lies, and the time is what counts.
    cluster.write(&alive, labels(-3), message(600)).await;
    let _alice = Agent::new(vec![config(cluster.url_of("agent", "&lifetime=10"))]);
    cluster.gone(&over).await;
    assert!(cluster.offers().get_opt(&alive).await.unwrap().is_some());
}

#[tokio::test]
#[ignore = "needs tests/kubernetes/cluster"]
async fn the_servers_of_the_secret_are_followed() {
    let cluster = Cluster::start().await;
    let secrets: Api<Secret> = Api::namespaced(cluster.admin.clone(), &cluster.namespace);
    let write = async |list: &str| {
        let mut secret = Secret::default();
        let data = [(
            "servers.json".to_owned(),
            ByteString(list.as_bytes().to_vec()),
        )];
        secret.data = Some(data.into());
        secret.metadata.name = Some("wice-ice-servers".to_owned());
        let params = PatchParams::apply("somebody");
        let name = "wice-ice-servers";
        secrets
            .patch(name, &params, &Patch::Apply(secret))
            .await
            .unwrap();
    };
    let mut agent = Agent::connected(&cluster).await;
    write(r#"[{"urls":["stun:a.example"]}]"#).await;
    assert_eq!(servers(&mut agent).await, ["stun:a.example:3478"]);
    // What cannot be read changes nothing.
    write("stun:a.example").await;
    write(r#"[{"urls":["turn:b.example"],"username":"u","credential":"p"}]"#).await;
    assert_eq!(
        servers(&mut agent).await,
        ["turn:b.example:3478?transport=udp"]
    );
    secrets
        .delete("wice-ice-servers", &DeleteParams::default())
        .await
        .unwrap();
    assert_eq!(servers(&mut agent).await, [""; 0]);
}

#[tokio::test]
#[ignore = "needs tests/kubernetes/cluster"]
async fn without_the_right_to_see_the_secret_everything_else_works() {
    let cluster = Cluster::start().await;
    cluster.change_role(|rules| drop(rules.pop())).await;
    let mut bob = Agent::connected(&cluster).await;
    bob.subscribe(1);
    bob.publish(1, "hello");
    bob.expect(1, "hello").await;
    assert_eq!(bob.signaling.statuses()[0].error, None);
}

#[tokio::test]
#[ignore = "needs tests/kubernetes/cluster"]
async fn another_token_in_the_token_file_is_used_when_the_old_one_is_refused() {
    let cluster = Cluster::start().await;
    let first = cluster.account("rotating").await;
    write_token_file(&first);
    let url = cluster.url_of("token-file", "");
    let mut bob = Agent::new(vec![config(url)]);
    bob.subscribe(1);
    bob.publish(1, "hello");
    bob.expect(1, "hello").await;
    let second = cluster.account("rotating").await;
    // The server remembers for some seconds whom it has let in.
    let refused = async {
        for number in 0.. {
            bob.publish(1, &number.to_string());
            match bob.events.recv().await.unwrap() {
                Event::Changed(status) => return status.error.unwrap(),
                Event::Message { .. } | Event::IceServers => {}
            }
        }
        unreachable!("the loop has no end")
    };
    let error = timeout(PATIENCE, refused).await.expect("a refusal");
    assert!(error.contains("401"), "{error}");
    write_token_file(&second);
    bob.publish(1, "with the other token");
    bob.until(1, "with the other token").await;
}

async fn failure(agent: &mut Agent) -> String {
    let status = agent.state(BackendState::Failed).await;
    status.error.expect("a failure says why")
}

async fn servers(agent: &mut Agent) -> Vec<String> {
    let changed = async { while !matches!(agent.events.recv().await, Some(Event::IceServers)) {} };
    timeout(PATIENCE, changed).await.expect("other servers");
    let servers = agent.signaling.ice_servers();
    servers.into_iter().map(|it| it.url.to_string()).collect()
}

fn to_us() -> Value {
    json!({ "wice.org/recipient": recipient().to_string() })
}

fn later(seconds: i64) -> String {
    (Timestamp::now() + SignedDuration::from_secs(seconds)).to_string()
}
