//! The relays of one WireGuard interface: one allocation in use, servers that stand by, and the peers' routes.

mod orders;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet, spawn_local};
use tracing::{debug, info, warn};
use wice_core::key::PublicKey;
use wice_core::relay::Relayed;
use wice_core::server::IceServer;
use wice_core::turn::Event;

use super::conduit::datagram_socket;
use super::establish::{Ground, establish, transport};
use super::link::Link;
use super::problem::Problem;
use super::route::Route;
use super::server::Server;
use super::status::{RelayState, RelayStatus};
use super::{News, Order};

/// Everything about relays that one interface has.
#[derive(Debug)]
pub(super) struct Interface {
    ground: Ground,
    news: mpsc::UnboundedSender<News>,
    servers: Vec<Server>,
    permitted: BTreeSet<IpAddr>,
    routes: BTreeMap<PublicKey, Route>,
    active: Option<Active>,
    /// Replaced allocations that may still carry something, and since when.
    retiring: Vec<(Active, Instant)>,
    /// Whether another allocation is sought although there is one, or when it will be.
    renewing: bool,
    renew: Option<Instant>,
    attempts: JoinSet<Attempt>,
    happenings: mpsc::UnboundedReceiver<Happening>,
    happened: mpsc::UnboundedSender<Happening>,
    /// What was told last.
    told: Option<(Vec<Relayed>, bool)>,
    shown: Vec<RelayStatus>,
}

/// An allocation at work, and the task that turns it.
#[derive(Debug)]
struct Active {
    link: Rc<Link>,
    server: IceServer,
    task: AbortHandle,
    since: Instant,
}

/// An attempt that has ended: with an allocation, with nothing because it was superseded, or with a problem.
#[derive(Debug)]
struct Attempt {
    server: IceServer,
    outcome: Result<Option<Rc<Link>>, Problem>,
}

/// What became of an allocation.
#[derive(Debug)]
struct Happening {
    link: Rc<Link>,
    event: Result<Event, Problem>,
}

/// A replaced allocation is kept so long at least: peers' checks through it are under way.
const REPLACED: Duration = Duration::from_secs(10);
/// And so long at most.
const RETIRED: Duration = Duration::from_secs(60);
/// An allocation that lasted so long was a good one.
const LASTING: Duration = Duration::from_secs(10);
/// How often to look whether one is still used.
const LOOK: Duration = Duration::from_secs(5);
/// Credentials that end by themselves are replaced so long before, where there are newer ones.
const RENEW: Duration = Duration::from_secs(120);

impl Interface {
    pub(super) fn new(
        ground: Ground,
        servers: Vec<IceServer>,
        news: mpsc::UnboundedSender<News>,
    ) -> Self {
        let (happened, happenings) = mpsc::unbounded_channel();
        let mut interface = Self {
            ground,
            news,
            servers: Vec::new(),
            permitted: BTreeSet::new(),
            routes: BTreeMap::new(),
            active: None,
            retiring: Vec::new(),
            renewing: false,
            renew: None,
            attempts: JoinSet::new(),
            happenings,
            happened,
            told: None,
            shown: Vec::new(),
        };
        interface.follow(servers);
        interface
    }

    /// Works until nobody can give orders any more; then gives everything back.
    pub(super) async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            self.pursue(Instant::now());
            self.tell();
            let due = self.due();
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => self.order(order),
                    None => break,
                },
                Some(Happening { link, event }) = self.happenings.recv() => match event {
                    Ok(event) => self.event(&link, event),
                    Err(problem) => self.lost(&link, &problem),
                },
                Some(outcome) = self.attempts.join_next() => match outcome {
                    Ok(Attempt { server, outcome }) => self.attempted(&server, outcome),
                    // Aborted with its server.
                    Err(error) => debug!("an attempt at a relay ended: {error}"),
                },
                () = sleep_until(due) => {}
            }
        }
        self.routes.clear();
        let retiring = self.retiring.drain(..).map(|(active, _)| active);
        for active in self.active.take().into_iter().chain(retiring) {
            active.end();
        }
        for server in &mut self.servers {
            server.state = RelayState::Standby;
        }
        self.told = None;
        self.tell();
    }

    fn order(&mut self, order: Order) {
        match order {
            Order::Servers(servers) => self.follow(servers),
            Order::NetworkChanged => self.network_changed(),
            Order::Relay(order) => self.relay(order),
        }
    }

    /// Takes over another list of servers. What is in use stays until another one takes its place.
    fn follow(&mut self, servers: Vec<IceServer>) {
        let mut known = std::mem::take(&mut self.servers);
        for server in servers {
            if transport(&server).is_none() || self.servers.iter().any(|it| it.server == server) {
                continue;
            }
            let before = known.iter().position(|it| it.server == server);
            let server = before.map_or_else(|| Server::new(server), |at| known.swap_remove(at));
            self.servers.push(server);
        }
        self.renew = None;
        let Some(in_use) = self.active.as_ref().map(|active| &active.server) else {
            return;
        };
        if self.servers.is_empty() {
            self.retire();
        } else if !self.servers.iter().any(|it| it.server == *in_use) {
            let same = |it: &&mut Server| it.server.url == in_use.url;
            let mut delay = Duration::ZERO;
            if let Some(same) = self.servers.iter_mut().find(same) {
                same.state = RelayState::Connected;
                delay = left(&in_use.username).saturating_sub(RENEW);
            }
            self.renew = Some(Instant::now() + delay);
        }
    }

    /// Everything may be reachable, or unreachable, since.
    fn network_changed(&mut self) {
        let now = Instant::now();
        for server in &mut self.servers {
            server.hurry(now);
        }
        let Some(active) = &self.active else {
            return;
        };
        active.link.with_client(|client, now| client.probe(now));
        // Where another address of ours is the way to the server now, the old one need not work any more.
        let server = active.link.server();
        let local = datagram_socket(server, self.ground.fwmark)
            .and_then(|socket| socket.local_addr())
            .ok()
            .and_then(|local| local.as_socket());
        let before = active.link.local_addr();
        if let (Some(local), Some(before)) = (local, before)
            && local.ip() != before.ip()
        {
            info!(%server, "the way to the relay has changed: asks for another allocation");
            self.renewing = true;
        }
    }

    /// Begins the attempts that are due.
    fn pursue(&mut self, now: Instant) {
        let in_use = |link: &Rc<Link>| self.routes.values().any(|route| route.uses(link));
        let (keep, end): (Vec<_>, Vec<_>) = self.retiring.drain(..).partition(|(active, since)| {
            let age = now.saturating_duration_since(*since);
            age < REPLACED || (age < RETIRED && in_use(&active.link))
        });
        self.retiring = keep;
        for (active, _) in end {
            active.end();
        }
        if self.renew.is_some_and(|renew| renew <= now) {
            info!("the relay in use is replaced: its server or its credentials changed");
            self.renew = None;
            self.renewing = true;
        }
        if self.active.is_some() && !self.renewing {
            return;
        }
        let alone = self.servers.len() == 1;
        for server in &mut self.servers {
            let Some(delay) = server.begin(now, alone) else {
                continue;
            };
            let Some(transport) = transport(&server.server) else {
                continue;
            };
            let (server, ground) = (server.server.clone(), self.ground.clone());
            self.attempts.spawn_local(async move {
                let outcome = establish(&server, transport, delay, &ground).await;
                Attempt { server, outcome }
            });
        }
    }

    fn attempted(&mut self, server: &IceServer, outcome: Result<Option<Rc<Link>>, Problem>) {
        let needed = self.active.is_none() || self.renewing;
        let known = self.servers.iter_mut().find(|it| it.server == *server);
        match (outcome, known) {
            (Ok(Some(link)), Some(known)) if needed => {
                known.succeeded(RelayState::Connected);
                self.use_link(link, server.clone());
            }
            (Ok(Some(link)), known) => {
                link.release();
                if let Some(known) = known {
                    known.succeeded(RelayState::Standby);
                }
            }
            (Ok(None), Some(known)) => known.withdrawn(needed),
            (Err(problem), Some(known)) => known.failed(&problem, Instant::now()),
            (_, None) => {}
        }
    }

    fn use_link(&mut self, link: Rc<Link>, server: IceServer) {
        for (relayed, url) in link.relayed().iter().map(|it| (it.address, &server.url)) {
            info!("{url} relays from {relayed}");
        }
        link.with_client(|client, now| client.permit(&self.permitted, now));
        let task = spawn_local(turn(Rc::clone(&link), self.happened.clone())).abort_handle();
        let before = self.active.replace(Active {
            link,
            server,
            task,
            since: Instant::now(),
        });
        self.retiring
            .extend(before.map(|active| (active, Instant::now())));
        self.renewing = false;
        self.renew = None;
        // Whoever has not begun need not; whoever has gives back what it gets.
        self.ground.superseded.set(true);
        self.ground.superseded = Rc::new(Cell::new(false));
        let in_use = self.active.as_ref().map(|active| &active.server);
        for other in &mut self.servers {
            if Some(&other.server) != in_use {
                other.stand_by();
            }
        }
    }

    fn event(&mut self, link: &Rc<Link>, event: Event) {
        match event {
            Event::NotProlonged(refusal) => {
                let active = self.active.as_ref();
                if let Some(active) = active.filter(|active| Rc::ptr_eq(&active.link, link)) {
                    if !self.renewing {
                        warn!(
                            "{} does not prolong the allocation: {refusal}",
                            active.server.url
                        );
                    }
                    self.renewing = true;
                }
            }
            Event::NotPermitted { peer, refusal } => {
                debug!("the relay does not relay to {peer}: {refusal}");
            }
            event => debug!(?event, "nothing to do"),
        }
    }

    fn lost(&mut self, link: &Rc<Link>, problem: &Problem) {
        for route in self.routes.values().filter(|route| route.uses(link)) {
            route.leave();
        }
        self.retiring
            .retain(|(active, _)| !Rc::ptr_eq(&active.link, link));
        let active = self.active.take();
        let (lost, other) = match active {
            Some(active) if Rc::ptr_eq(&active.link, link) => (Some(active), None),
            active => (None, active),
        };
        self.active = other;
        let Some(lost) = lost else {
            return;
        };
        warn!(
            "the relay {} is lost: {problem}; looks for another",
            lost.server.url
        );
        let now = Instant::now();
        // One that ends as soon as it begins would end again at once.
        let lasted = now.saturating_duration_since(lost.since) >= LASTING;
        for server in &mut self.servers {
            let other = server.server.url != lost.server.url;
            if !other {
                server.failed(problem, now);
            }
            if other || lasted {
                server.hurry(now);
            }
        }
    }

    fn retire(&mut self) {
        let active = self.active.take();
        self.retiring
            .extend(active.map(|active| (active, Instant::now())));
    }

    /// Tells what changed.
    fn tell(&mut self) {
        let shown: Vec<RelayStatus> = self.servers.iter().map(Server::status).collect();
        if self.shown != shown {
            self.shown.clone_from(&shown);
            self.say(News::Statuses {
                interface: self.ground.interface,
                statuses: shown,
            });
        }
        let addresses: Vec<Relayed> = self.links().flat_map(|link| link.relayed()).collect();
        let finished = self.active.is_some() || self.servers.iter().all(Server::is_tried);
        let told = Some((addresses, finished));
        if self.told != told {
            self.told = told;
            if let Some((addresses, finished)) = self.told.clone() {
                self.say(News::Relayed {
                    interface: self.ground.interface,
                    addresses,
                    finished,
                });
            }
        }
    }

    fn say(&self, news: News) {
        // Nobody listens any more when the agent leaves.
        let _ = self.news.send(news);
    }

    /// When something is to be done by itself.
    fn due(&self) -> Option<Instant> {
        let retry = (self.active.is_none() || self.renewing)
            .then(|| self.servers.iter().filter_map(Server::due).min())
            .flatten();
        let retire = (!self.retiring.is_empty()).then(|| Instant::now() + LOOK);
        retry.into_iter().chain(retire).chain(self.renew).min()
    }

    fn links(&self) -> impl Iterator<Item = &Rc<Link>> {
        let retiring = self.retiring.iter().map(|(active, _)| active);
        self.active
            .iter()
            .chain(retiring)
            .map(|active| &active.link)
    }

    fn link(&self, relayed: SocketAddr) -> Option<&Rc<Link>> {
        self.links().find(|link| link.relays_from(relayed))
    }
}

impl Active {
    fn end(self) {
        self.task.abort();
        self.link.release();
    }
}

/// Turns a link until it is lost.
async fn turn(link: Rc<Link>, happened: mpsc::UnboundedSender<Happening>) {
    loop {
        let event = link.next().await;
        let lost = event.is_err();
        let link = Rc::clone(&link);
        if happened.send(Happening { link, event }).is_err() || lost {
            return;
        }
    }
}

/// How long credentials are valid yet whose user name begins with their end, as a Unix time ("TURN REST"); nothing when it says
/// nothing.
fn left(username: &str) -> Duration {
    let end = username.split(':').next().and_then(|end| end.parse().ok());
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let end = Duration::from_secs(end.unwrap_or_default());
    end.saturating_sub(now.unwrap_or_default())
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
