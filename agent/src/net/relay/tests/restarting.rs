//! Servers that die and come back.

use super::coturn::Coturn;
use super::{Scene, in_namespace};

#[test]
fn a_killed_server_carries_again_soon_after_it_is_back() {
    in_namespace(async || {
        let Some(mut server) = Coturn::start("") else {
            return;
        };
        let mut scene = Scene::new(&[Coturn::server("turn:127.0.0.1")]).await;
        let relayed = scene.relayed().await[0].address;
        let endpoint = scene.open(relayed).await;
        scene.converse(endpoint, relayed).await;

        server.kill();
        let _ = scene.wireguard.send_to(b"into the void", endpoint).await;
        scene.lost().await;
        server.restart();
        let back = tokio::time::Instant::now();
        let relayed = scene.relayed().await[0].address;
        assert_eq!(scene.open(relayed).await, endpoint);
        scene.converse(endpoint, relayed).await;
        eprintln!(
            "carries again {:?} after the server is back",
            back.elapsed()
        );
    });
}
