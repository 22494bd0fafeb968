//! Agents that leave nothing behind (spec/install.md §6): what they do before they end, and what is done for those that were killed.

use std::time::Duration;

use pilot_core::record::Withdrawal;
use pilot_core::ticket::BackboneTicket;
use pilot_core::wire::directory::Request;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{Agent, AgentConfig, Inner, StartError};
use crate::api::orgs::LeaveRequest;
use crate::backbone_link;
use crate::clock;
use crate::home::{AgentHome, Home, HomeError};

/// Goodbyes take so long at most: whoever stops an agent kills it after 5 s.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(3);
/// Whoever wants the name of an agent that is just ending, or just starting, waits so long: for a start, and for goodbyes.
const ENDING_TIMEOUT: Duration = Duration::from_secs(8);
const ENDING_POLL: Duration = Duration::from_millis(20);

impl Agent {
    /// Leaves its organisations and the directory, as far as they answer. What is not heard ends by its date, soon.
    pub(super) async fn say_farewell(&self) {
        let inner = &self.inner;
        if !inner.agent_home.is_ephemeral() {
            return;
        }
        if let Err(error) = inner.agent_home.mark_ending() {
            tracing::debug!(%error, "not marked");
        }
        let mut goodbyes = JoinSet::new();
        for name in inner.orgs.names() {
            let agent = self.clone();
            goodbyes.spawn(async move {
                let leaving = LeaveRequest { org: name, force: true };
                if let Err(error) = agent.leave_org(&leaving).await {
                    tracing::info!(%error, org = leaving.org, "not left");
                }
            });
        }
        let said = timeout(FAREWELL_TIMEOUT, async { tokio::join!(withdraw(inner), goodbyes.join_all()) });
        if said.await.is_err() {
            tracing::info!("not everybody has heard that this agent ends");
        }
    }
}

/// Gives the name back.
async fn withdraw(inner: &Inner) {
    if !inner.home_link.borrow().connected {
        return;
    }
    let now = clock::now().unix;
    let record =
        Withdrawal { key: inner.identity.key(), sequence: inner.next_sequence(now), issued: now, instance: None };
    let Ok(signed) = record.sign(&inner.identity) else { return };
    if let Err(error) = backbone_link::call(inner, &Request::Withdraw { signed }).await {
        tracing::info!(%error, "not withdrawn");
    }
}

/// Makes room for an agent of that name, if an ephemeral one has left something behind or is just ending. One that was killed may still
/// hold its home for a moment: the kernel closes its socket first.
pub async fn make_room(home: &Home, name: &str) {
    let Ok(agent_home) = home.agent(name) else { return };
    let ended = async {
        while (agent_home.is_ending() || !agent_home.answers()) && agent_home.running_pid().is_some() {
            sleep(ENDING_POLL).await;
        }
    };
    timeout(ENDING_TIMEOUT, ended).await.ok();
    see_out(home, &agent_home).await;
}

/// Does the same for all that ephemeral agents have left in this home.
pub async fn clear_up(home: &Home) {
    if let Err(error) = home.clear_discarded() {
        tracing::warn!(%error, "what an agent has left stays");
    }
    for leftover in home.leftovers() {
        see_out(home, &leftover).await;
    }
}

/// Says goodbye in the name of an agent that was killed, with its own key, and removes its home.
async fn see_out(home: &Home, leftover: &AgentHome) {
    if !leftover.is_leftover() {
        return;
    }
    let backbone = leftover.settings().ok().and_then(|settings| settings.backbone);
    let backbone = backbone.and_then(|ticket| ticket.parse::<BackboneTicket>().ok());
    let config = AgentConfig { backbone, ephemeral: true, ..AgentConfig::new(home.clone(), leftover.name()) };
    if let Err(error) = leftover.mark_ending() {
        tracing::debug!(%error, "not marked");
    }
    match Agent::start(config).await {
        Ok(agent) => agent.shutdown().await,
        // Somebody else sees it out.
        Err(StartError::Home(HomeError::AlreadyRunning { .. })) => return,
        Err(error) => tracing::info!(%error, name = leftover.name(), "an agent that was killed is not heard any more"),
    }
    if let Err(error) = leftover.discard() {
        tracing::warn!(%error, "what an agent has left stays");
    }
}
