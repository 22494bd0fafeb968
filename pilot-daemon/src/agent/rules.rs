//! Who may call this agent, as programs and people see and change it (spec/rules.md).

use super::{Agent, service_name, service_port};
use crate::api;
use crate::api::types::{ApiError, ErrorCode};
use crate::rules::{self, Decision, Effect, Rule, Service, Who};

impl Agent {
    /// The rules in force.
    ///
    /// # Errors
    /// If the agent has shut down.
    pub async fn rules(&self) -> Result<api::rules::RuleList, ApiError> {
        let list = self.inner.ask(|core, now| {
            let rule = |(effect, rule): (Effect, &Rule)| api::rules::Rule {
                effect: effect.name().to_owned(),
                service: rule.service.to_string(),
                from: rule.from.to_string(),
                note: rule.note.clone(),
            };
            let rules = core.rules.current(now.mono).rules().map(rule).collect();
            let error = core.rules.error().map(ToString::to_string);
            api::rules::RuleList { file: core.rules.path().to_owned(), rules, error }
        });
        list.await
    }

    /// Adds a rule, or takes it back. A name or an address becomes the key that it stands for now.
    ///
    /// # Errors
    /// If the rule makes no sense, names an unknown agent, or cannot be kept.
    pub async fn change_rules(&self, request: &api::rules::ChangeRules) -> Result<api::rules::Rule, ApiError> {
        let usage = |message: String| ApiError::new(ErrorCode::Usage, message);
        let effect = [Effect::Allow, Effect::Deny].into_iter().find(|effect| effect.name() == request.effect);
        let effect = effect.ok_or_else(|| usage(format!("'{}' is neither allow nor deny", request.effect)))?;
        let service = Service::try_from(request.service.clone()).map_err(usage)?;
        let (from, note) = self.who(&request.from, effect).await?;
        let rule = Rule { service, from, note };
        let changed = api::rules::Rule {
            effect: effect.name().to_owned(),
            service: rule.service.to_string(),
            from: rule.from.to_string(),
            note: rule.note.clone(),
        };
        let in_force = self.inner.ask(|core, now| {
            core.rules.look_again();
            core.rules.current(now.mono);
            core.rules.error().map(ToString::to_string)
        });
        if let Some(error) = in_force.await? {
            return Err(
                ApiError::new(ErrorCode::Failed, error).hint("correct the file first; the rules before are in force")
            );
        }
        let path = self.inner.agent_home.path().join("rules.toml");
        let remove = request.remove;
        let edited = tokio::task::spawn_blocking(move || rules::edit(&path, effect, &rule, remove)).await;
        let has_changed = edited.map_err(|error| ApiError::new(ErrorCode::Failed, error.to_string()))??;
        self.inner.apply(|core, _| core.rules.look_again()).await?;
        if remove && !has_changed {
            let message = format!("there is no rule '{} {} {}'", changed.effect, changed.service, changed.from);
            return Err(ApiError::new(ErrorCode::NotFound, message).hint("see the rules: pilotctl rules"));
        }
        Ok(changed)
    }

    /// Whether an agent may call a service of this one, and why.
    ///
    /// # Errors
    /// If there is no such agent or service.
    pub async fn why(&self, request: &api::rules::WhyRequest) -> Result<api::rules::Why, ApiError> {
        let port = service_port(&request.service).ok_or_else(|| {
            ApiError::new(ErrorCode::Usage, format!("'{}' is not a service", request.service))
                .hint("services are echo, query, mcp, message, or a port number")
        })?;
        let found = self.resolve(&request.agent).await?;
        let key = found.key;
        let decision = self
            .inner
            .ask(move |core, now| {
                let is_public = core.services.is_public(port);
                Decision::without_rules(port).unwrap_or_else(|| core.decide(now, &key, port, is_public))
            })
            .await?;
        Ok(api::rules::Why {
            agent: found.label(),
            key: key.to_string(),
            service: service_name(port),
            allowed: decision.allowed,
            reason: decision.reason,
        })
    }

    /// Those whom a person has named, and a note for people where a key alone would say little. Who is let in as a member is for as long as
    /// it is one; who is kept out stays out.
    async fn who(&self, text: &str, effect: Effect) -> Result<(Who, Option<String>), ApiError> {
        let is_word = matches!(text, "public" | "home") || text.contains(':') && !text.starts_with("0:");
        if is_word && !text.starts_with("pilot:") {
            let who = text.parse().map_err(|error| ApiError::new(ErrorCode::Usage, error))?;
            return Ok((who, None));
        }
        let found = self.resolve(text).await?;
        let org = text.split_once('@').map(|(_, org)| org).filter(|_| !text.starts_with("pilot:"));
        let who = match (effect, org) {
            (Effect::Allow, Some(org)) => Who::Member(found.key, org.to_owned()),
            (Effect::Allow, None) | (Effect::Deny, _) => Who::Agent(found.key),
        };
        Ok((who, Some(found.label())))
    }
}
