//! A person or program that acts, and what it may do.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use muster_http::{ClientAddress, Problem};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{TeamId, UserId};

/// What a user may do, globally or in a team.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
pub enum Role {
    /// Writes configuration, and sees no hosts: for programs that apply what is kept in files.
    #[serde(rename = "gitops")]
    GitOps,
    /// Reads; runs only the queries that are marked for observers.
    #[serde(rename = "observer")]
    Observer,
    /// Reads, and runs any query.
    #[serde(rename = "observer_plus")]
    ObserverPlus,
    /// Everything but users and settings of the organisation.
    #[serde(rename = "maintainer")]
    Maintainer,
    /// Everything.
    #[serde(rename = "admin")]
    Admin,
}

impl Role {
    /// All of them, least first.
    pub const ALL: [Self; 5] = [
        Self::GitOps,
        Self::Observer,
        Self::ObserverPlus,
        Self::Maintainer,
        Self::Admin,
    ];

    /// Whether it allows something, where it is held.
    pub fn allows(self, action: Action) -> bool {
        match self {
            Self::GitOps => action.is_configuration(),
            Self::ObserverPlus if action == Action::RunAnyQuery => true,
            role => role >= action.least_role(),
        }
    }

    /// The text in the database and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::GitOps => "gitops",
            Self::Observer => "observer",
            Self::ObserverPlus => "observer_plus",
            Self::Maintainer => "maintainer",
            Self::Admin => "admin",
        }
    }

    /// The role of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    /// From the database: a role that a newer release gave counts as the least.
    pub(crate) fn from_text(name: &str) -> Self {
        Self::parse(name).unwrap_or(Self::Observer)
    }
}

/// Something that a principal may or may not do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// See hosts and what is known about them.
    ReadHosts,
    /// Delete, transfer and refetch hosts.
    WriteHosts,
    /// See labels.
    ReadLabels,
    /// Make, change and delete labels.
    WriteLabels,
    /// See saved queries, campaigns and their results.
    ReadQueries,
    /// Make, change and delete saved queries.
    WriteQueries,
    /// Run a saved query that is marked for observers.
    RunSavedQuery,
    /// Run any SQL.
    RunAnyQuery,
    /// See that a team exists.
    ReadTeams,
    /// Make, change and delete teams; a team's own admin may change it.
    WriteTeams,
    /// See enrollment tokens without their secret.
    ReadEnrollmentTokens,
    /// See the secrets of enrollment tokens.
    RevealEnrollmentTokens,
    /// Make and revoke enrollment tokens.
    WriteEnrollmentTokens,
    /// See users.
    ReadUsers,
    /// Make, change and delete users.
    WriteUsers,
    /// See the organisation's settings and agent options.
    ReadSettings,
    /// Change them.
    WriteSettings,
    /// See configurations of collectors, and what is assigned to whom.
    ReadCollectorConfigs,
    /// Make, change, assign and delete them.
    WriteCollectorConfigs,
    /// See who changed what.
    ReadAudit,
    /// See how the server itself is doing.
    ReadServer,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::ReadHosts,
        Self::WriteHosts,
        Self::ReadLabels,
        Self::WriteLabels,
        Self::ReadQueries,
        Self::WriteQueries,
        Self::RunSavedQuery,
        Self::RunAnyQuery,
        Self::ReadTeams,
        Self::WriteTeams,
        Self::ReadEnrollmentTokens,
        Self::RevealEnrollmentTokens,
        Self::WriteEnrollmentTokens,
        Self::ReadUsers,
        Self::WriteUsers,
        Self::ReadSettings,
        Self::WriteSettings,
        Self::ReadCollectorConfigs,
        Self::WriteCollectorConfigs,
        Self::ReadAudit,
        Self::ReadServer,
    ];

    /// Whether it is a matter of configuration, which is kept in files by those who like that.
    fn is_configuration(self) -> bool {
        matches!(
            self,
            Self::ReadLabels
                | Self::WriteLabels
                | Self::ReadQueries
                | Self::WriteQueries
                | Self::ReadTeams
                | Self::WriteTeams
                | Self::ReadEnrollmentTokens
                | Self::RevealEnrollmentTokens
                | Self::WriteEnrollmentTokens
                | Self::ReadSettings
                | Self::WriteSettings
                | Self::ReadCollectorConfigs
                | Self::WriteCollectorConfigs
        )
    }

    /// The least role that may do it, among those that may do all that lesser ones may.
    pub fn least_role(self) -> Role {
        match self {
            Self::ReadHosts
            | Self::ReadLabels
            | Self::ReadQueries
            | Self::RunSavedQuery
            | Self::ReadTeams
            | Self::ReadSettings
            | Self::ReadCollectorConfigs => Role::Observer,
            Self::WriteHosts
            | Self::WriteLabels
            | Self::WriteQueries
            | Self::RunAnyQuery
            | Self::ReadEnrollmentTokens
            | Self::RevealEnrollmentTokens
            | Self::WriteEnrollmentTokens
            | Self::WriteCollectorConfigs => Role::Maintainer,
            Self::WriteTeams
            | Self::ReadUsers
            | Self::WriteUsers
            | Self::WriteSettings
            | Self::ReadAudit
            | Self::ReadServer => Role::Admin,
        }
    }

    /// Whether whoever may do it in some team may do it everywhere: labels, settings and shared queries belong to
    /// everybody, and whoever has a role at all may read them.
    fn is_shared_reading(self) -> bool {
        matches!(
            self,
            Self::ReadLabels
                | Self::ReadSettings
                | Self::ReadQueries
                | Self::RunSavedQuery
                | Self::ReadCollectorConfigs
        )
    }
}

/// Where something is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// To what belongs to everybody.
    Global,
    /// To what belongs to a team, or (`None`) to no team, which is a matter of global roles.
    Team(Option<TeamId>),
    /// Anywhere at all: the list that follows is narrowed down to the teams that are visible.
    Anywhere,
}

/// Which teams' things somebody sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TeamFilter {
    /// Everything, what has no team included.
    All,
    /// What belongs to these teams.
    Only(Vec<TeamId>),
}

impl TeamFilter {
    /// Whether what belongs to a team is seen.
    pub fn admits(&self, team: Option<TeamId>) -> bool {
        match self {
            Self::All => true,
            Self::Only(teams) => team.is_some_and(|team| teams.contains(&team)),
        }
    }
}

/// By what a principal proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// A session, by its id.
    Session(i64),
    /// An API token, by its id.
    ApiToken(i64),
}

/// A person or program that acts.
#[derive(Debug, Clone)]
pub struct Principal {
    /// Its user.
    pub user_id: UserId,
    /// The user's name.
    pub name: String,
    /// The user's address, which is the name at login.
    pub email: String,
    /// What it may do everywhere; none when it has roles in teams.
    pub global_role: Option<Role>,
    /// What it may do in teams.
    pub teams: Vec<(TeamId, Role)>,
    /// Whether it must set a new password before anything else.
    pub must_reset_password: bool,
    /// By what it proved who it is.
    pub credential: Credential,
    /// Where it acts from.
    pub address: ClientAddress,
}

impl Principal {
    /// Whether it may do something there.
    pub fn may(&self, action: Action, scope: Scope) -> bool {
        let global = self.global_role.is_some_and(|role| role.allows(action));
        let in_some_team = || self.teams.iter().any(|(_, role)| role.allows(action));
        global
            || match scope {
                Scope::Global => action.is_shared_reading() && in_some_team(),
                Scope::Team(None) => false,
                Scope::Team(Some(team)) => self
                    .teams
                    .iter()
                    .any(|(id, role)| *id == team && role.allows(action)),
                Scope::Anywhere => in_some_team(),
            }
    }

    /// 403 unless it may do something there.
    pub fn authorize(&self, action: Action, scope: Scope) -> Result<(), Problem> {
        if self.may(action, scope) {
            return Ok(());
        }
        tracing::info!(user.id = self.user_id.0, action = ?action, scope = ?scope, "denied");
        let role = match action.least_role() {
            _ if action == Action::RunAnyQuery => "the role observer_plus, maintainer or admin",
            Role::Admin if action.is_configuration() => "the role gitops or admin",
            Role::Admin => "the role admin",
            Role::Maintainer if action.is_configuration() => "the role gitops, maintainer or admin",
            Role::Maintainer => "the role maintainer or admin",
            _ if action.is_configuration() => "a role",
            _ => "a role other than gitops",
        };
        let place = match scope {
            Scope::Global | Scope::Team(None) => "for all teams",
            Scope::Team(Some(_)) => "in this team or for all",
            Scope::Anywhere => "in a team or for all",
        };
        Err(Problem::forbidden(format!(
            "forbidden: this needs {role}, {place}"
        )))
    }

    /// The teams in which it may do something; `All` with a global role.
    pub fn teams_for(&self, action: Action) -> TeamFilter {
        if self.global_role.is_some_and(|role| role.allows(action)) {
            return TeamFilter::All;
        }
        let teams = self.teams.iter().filter(|(_, role)| role.allows(action));
        TeamFilter::Only(teams.map(|(id, _)| *id).collect())
    }

    /// The teams whose hosts it sees.
    pub fn visible_teams(&self) -> TeamFilter {
        self.teams_for(Action::ReadHosts)
    }
}

/// A principal that may have to set a new password first: for the calls by which it does that.
pub(crate) struct AnyPrincipal(pub(crate) Principal);

impl<S: Send + Sync> FromRequestParts<S> for AnyPrincipal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let principal = parts.extensions.get::<Principal>().cloned();
        principal.map(Self).ok_or_else(|| {
            // A fault while the token was looked up, or the reason why there is none.
            parts
                .extensions
                .get::<Problem>()
                .cloned()
                .unwrap_or_else(|| Problem::unauthenticated("Authorization header required"))
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Principal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let AnyPrincipal(principal) = AnyPrincipal::from_request_parts(parts, state).await?;
        if principal.must_reset_password {
            return Err(Problem::unauthenticated("password reset required")
                .with_code("password_reset_required"));
        }
        Ok(principal)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn principal(global_role: Option<Role>, teams: &[(i64, Role)]) -> Principal {
        Principal {
            user_id: UserId(1),
            name: "Ann".into(),
            email: "ann@example.com".into(),
            global_role,
            teams: teams
                .iter()
                .map(|(id, role)| (TeamId(*id), *role))
                .collect(),
            must_reset_password: false,
            credential: Credential::Session(1),
            address: ClientAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        }
    }

    #[test]
    fn who_may_do_what() {
        let mut table = String::from(
            "action                  global: git obs ob+ mnt adm | team 1: git obs ob+ mnt adm\n",
        );
        for action in Action::ALL {
            let _ = write!(table, "{:<24}        ", format!("{action:?}"));
            for role in Role::ALL {
                let may = principal(Some(role), &[]).may(action, Scope::Team(Some(TeamId(1))));
                assert_eq!(may, principal(Some(role), &[]).may(action, Scope::Global));
                let _ = write!(table, " {:<3}", if may { "yes" } else { "-" });
            }
            table.push_str(" |        ");
            for role in Role::ALL {
                let member = principal(None, &[(1, role)]);
                assert!(
                    !member.may(action, Scope::Team(Some(TeamId(2)))),
                    "another team is out of reach"
                );
                assert!(
                    !member.may(action, Scope::Team(None)),
                    "no team is a matter of global roles"
                );
                let own = member.may(action, Scope::Team(Some(TeamId(1))));
                let global = member.may(action, Scope::Global);
                let text = match (own, global) {
                    (true, true) => "all",
                    (true, false) => "own",
                    _ => "-",
                };
                let _ = write!(table, " {text:<3}");
            }
            table.push('\n');
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn a_member_of_teams_sees_those_and_nothing_else() {
        let member = principal(None, &[(1, Role::Observer), (2, Role::Maintainer)]);
        assert_eq!(
            member.visible_teams(),
            TeamFilter::Only(vec![TeamId(1), TeamId(2)])
        );
        assert_eq!(
            member.teams_for(Action::WriteHosts),
            TeamFilter::Only(vec![TeamId(2)])
        );
        assert!(
            !member.visible_teams().admits(None) && member.visible_teams().admits(Some(TeamId(2)))
        );
        assert_eq!(
            principal(Some(Role::Observer), &[]).visible_teams(),
            TeamFilter::All
        );
    }
}
