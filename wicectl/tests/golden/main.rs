//! What wicectl prints and how it ends, for a fixed agent on a real bus: compared with the files in `expected/`.
//!
//! `UPDATE_GOLDEN=1 cargo test -p wicectl --test golden` writes them anew; read their diff before you commit it. A new case is one
//! line in the scene that shows it: `human` compares it without and with colours, `plain` as it is (JSON, errors).

mod bus;
mod model;
mod monitor;
mod run;
mod service;

use std::collections::BTreeSet;

use model::Model;
use run::Scene;

#[tokio::test]
async fn an_ordinary_agent() {
    let scene = Scene::new(Model::ordinary(model::now())).await;
    scene.human("status", &["status"]).await;
    scene.human("status-interface", &["status", "wg1"]).await;
    scene
        .human("status-peer", &["status", "wg0", "phone"])
        .await;
    scene.human("explain-direct", &["explain", "laptop"]).await;
    scene.human("explain-failed", &["explain", "printer"]).await;
    scene.human("netcheck", &["netcheck"]).await;
    scene.plain("version", &["version"]).await;
    scene.plain("restart", &["restart", "laptop"]).await;
    scene.plain("restart-all", &["restart", "--all"]).await;
    scene.plain("reload", &["reload"]).await;
    scene
        .plain("wait-direct", &["wait", "laptop", "--direct"])
        .await;
}

#[tokio::test]
async fn json() {
    let scene = Scene::new(Model::ordinary(model::THEN)).await;
    scene.plain("status-json", &["status", "--json"]).await;
    let peer = ["status", "wg0", "phone", "--json"];
    scene.plain("status-peer-json", &peer).await;
    let explain = ["explain", "printer", "--json"];
    scene.plain("explain-failed-json", &explain).await;
    scene.plain("netcheck-json", &["netcheck", "--json"]).await;
}

#[tokio::test]
async fn hostile_text() {
    let scene = Scene::new(Model::hostile(model::now())).await;
    scene.human("hostile-status", &["status"]).await;
    scene
        .human("hostile-explain", &["explain", model::HOSTILE])
        .await;
    scene.human("hostile-netcheck", &["netcheck"]).await;
    scene.plain("hostile-version", &["version"]).await;
    let unknown = ["status", "\u{1b}[2Jnobody\n\u{202e}"];
    scene.plain("hostile-unknown", &unknown).await;
    scene.plain("hostile-ambiguous", &["explain", ""]).await;
    scene.plain("hostile-reload", &["reload"]).await;
    scene
        .plain("hostile-restart", &["restart", model::HOSTILE])
        .await;

    let scene = Scene::new(Model::hostile(model::THEN)).await;
    let status = ["status", "--json"];
    scene.plain("hostile-status-json", &status).await;
}

#[tokio::test]
async fn nothing_and_very_much() {
    let scene = Scene::new(Model::empty()).await;
    scene.human("empty-status", &["status"]).await;
    scene
        .plain("empty-status-json", &["status", "--json"])
        .await;
    let scene = Scene::new(Model::crowd(model::now(), 200)).await;
    scene.human("crowd-status", &["status"]).await;
    scene.plain("crowd-ambiguous", &["wait", "A"]).await;
}

/// Scripts rely on the numbers: each is produced once here, and nothing but them.
#[tokio::test]
async fn every_exit_status() {
    let mut seen = BTreeSet::new();
    let scene = Scene::new(Model::ordinary(model::now())).await;
    seen.insert(scene.plain("exit-0", &["wait", "laptop"]).await);
    seen.insert(scene.plain("exit-2-arguments", &["restart"]).await);
    let ambiguous = ["restart", "AAAA"];
    seen.insert(scene.plain("exit-2-ambiguous", &ambiguous).await);
    let elsewhere = ["ping", "laptop", "--address", "10.0.0.3"];
    seen.insert(scene.plain("exit-2-ping", &elsewhere).await);
    let patience = ["wait", "phone", "--direct", "--timeout", "0.1"];
    seen.insert(scene.plain("exit-3-relay", &patience).await);
    let patience = ["wait", "printer", "--timeout", "0.1"];
    seen.insert(scene.plain("exit-3-failed", &patience).await);
    seen.insert(scene.plain("exit-10-peer", &["explain", "nobody"]).await);
    let interface = ["status", "wg9", "laptop"];
    seen.insert(scene.plain("exit-10-interface", &interface).await);

    let scene = Scene::new(Model::refusing()).await;
    seen.insert(scene.plain("exit-1", &["reload"]).await);
    seen.insert(scene.plain("exit-4", &["restart", "laptop"]).await);

    let scene = Scene::without_agent();
    seen.insert(scene.plain("exit-8", &["status"]).await);
    seen.insert(scene.plain("exit-8-json", &["status", "--json"]).await);
    assert_eq!(seen, BTreeSet::from([0, 1, 2, 3, 4, 8, 10]));
}
