//! One watch that lasts: it goes on where it stopped when the server ends it, and starts anew when its position is too old.
//!
//! It starts at resource version 0: the server first sends what there is, from its memory and one object at a time, and
//! then what changes. That is one request where a list and a watch would be two, and no answer grows with the namespace.

use std::fmt::Debug;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use kube::Api;
use kube::api::{WatchEvent, WatchParams};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep_until, timeout};

use super::error::is_gone;

/// The position from which a watch begins with everything that there is.
pub(in super::super) const NOW: &str = "0";

/// A watch on some objects of one kind.
pub(in super::super) struct Watch<K> {
    api: Api<K>,
    params: WatchParams,
    position: String,
    events: Option<BoxStream<'static, Result<WatchEvent<K>, kube::Error>>>,
    opened: Option<Instant>,
}

/// Longest time until the server answers that it watches.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// The server sends a bookmark every minute. After this long without a word the connection may be dead, so another takes its
/// place: that costs one request where the server sends no bookmarks.
const SILENCE: Duration = Duration::from_secs(150);
/// Two requests of a watch are at least so far apart, whatever the server does.
const PACE: Duration = Duration::from_secs(1);

/// What a watch has to tell.
#[derive(Debug)]
pub(in super::super) enum Sight<K> {
    /// The server watches.
    Open,
    /// An object as it is now.
    Object(Box<K>),
    /// An object that is gone.
    Gone,
    /// The watch is further; nothing else happened.
    Further,
    /// Everything that there is comes once more.
    Anew,
    /// Something that is no object of the kind.
    Unreadable,
}

impl<K> Watch<K>
where
    K: kube::Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    /// One that starts when it is asked for [`Watch::next`].
    pub(in super::super) fn new(api: Api<K>, params: WatchParams, position: String) -> Self {
        Self {
            api,
            params,
            position,
            events: None,
            opened: None,
        }
    }

    /// Where another watch would go on.
    pub(in super::super) fn position(&self) -> &str {
        &self.position
    }

    /// Waits for something; not to be called again after an error.
    pub(in super::super) async fn next(&mut self) -> Result<Sight<K>, kube::Error> {
        loop {
            let Some(events) = &mut self.events else {
                return self.open().await;
            };
            match timeout(SILENCE, events.next()).await {
                Ok(Some(Ok(event))) => return self.take(event),
                Ok(Some(Err(kube::Error::SerdeError(_)))) => return Ok(Sight::Unreadable),
                // What is no object of the kind is taken for a status that says nothing.
                Ok(Some(Err(kube::Error::Api(status)))) if status.code == 0 => {
                    return Ok(Sight::Unreadable);
                }
                Ok(Some(Err(kube::Error::Api(status)))) => return self.refused(status),
                Ok(Some(Err(error))) => return Err(error),
                // The server ends every watch after some minutes.
                Ok(None) | Err(_) => self.events = None,
            }
        }
    }

    /// Asks the server to watch.
    async fn open(&mut self) -> Result<Sight<K>, kube::Error> {
        if let Some(opened) = self.opened {
            sleep_until(opened + PACE).await;
        }
        self.opened = Some(Instant::now());
        let watch = self.api.watch(&self.params, &self.position);
        match timeout(ANSWER_TIMEOUT, watch).await {
            Ok(Ok(events)) => {
                self.events = Some(events.boxed());
                Ok(Sight::Open)
            }
            Ok(Err(kube::Error::Api(status))) => self.refused(status),
            Ok(Err(error)) => Err(error),
            Err(elapsed) => Err(kube::Error::Service(elapsed.into())),
        }
    }

    fn take(&mut self, event: WatchEvent<K>) -> Result<Sight<K>, kube::Error> {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                self.pass(&object);
                Ok(Sight::Object(Box::new(object)))
            }
            WatchEvent::Deleted(object) => {
                self.pass(&object);
                Ok(Sight::Gone)
            }
            WatchEvent::Bookmark(bookmark) => {
                self.position = bookmark.metadata.resource_version;
                Ok(Sight::Further)
            }
            WatchEvent::Error(status) => self.refused(status),
        }
    }

    /// What there was comes in no order, so until the first bookmark no object tells how far the watch is.
    fn pass(&mut self, object: &K) {
        if let Some(position) = &object.meta().resource_version
            && self.position != NOW
        {
            self.position.clone_from(position);
        }
    }

    fn refused(&mut self, status: Box<kube::core::Status>) -> Result<Sight<K>, kube::Error> {
        if !is_gone(&status) || self.position == NOW {
            return Err(kube::Error::Api(status));
        }
        self.position = NOW.to_owned();
        self.events = None;
        Ok(Sight::Anew)
    }
}
