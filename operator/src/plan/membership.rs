//! From one number of masters to another, without a moment in which the quorum is in doubt.

/// A master as the leader counts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The master.
    pub id: u64,
    /// Whether it counts; else it is catching up.
    pub voter: bool,
}

/// The masters as their leader sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// The master that leads.
    pub leader: u64,
    /// How often a leader was looked for.
    pub term: u64,
    /// Who belongs to it.
    pub members: Vec<Member>,
}

/// What the leader is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// To hand the lead to this master.
    Transfer(u64),
    /// To let this master go.
    Remove(u64),
}

/// How many masters there are to be now, and what is done first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Pods.
    pub replicas: u32,
    /// Call to the leader.
    pub step: Option<Step>,
    /// What is waited for.
    pub waits: Option<String>,
}

/// On the way from `have` pods (none yet: no StatefulSet) to `wanted`.
///
/// More: new masters join by themselves, once there is a group that they can join. Fewer: the highest leave the
/// quorum one after the other, then their pods and volumes go.
pub fn plan(wanted: u32, have: Option<u32>, quorum: Option<&Quorum>) -> Membership {
    let stay = |replicas, waits: String| Membership {
        replicas,
        step: None,
        waits: Some(waits),
    };
    let done = Membership {
        replicas: wanted,
        step: None,
        waits: None,
    };
    let Some(have) = have.filter(|have| *have != wanted) else {
        return Membership {
            waits: waits_for(wanted, quorum),
            ..done
        };
    };
    let Some(quorum) = quorum else {
        let text = format!(
            "the number of masters changes from {have} to {wanted} as soon as they have a leader"
        );
        return stay(have, text);
    };
    let counts = |id: u64| quorum.members.iter().any(|m| m.id == id && m.voter);
    if let Some(missing) = (1..=u64::from(wanted.min(have))).find(|id| !counts(*id)) {
        let text = format!(
            "master {missing} must be in the quorum before the number of masters changes to {wanted}"
        );
        return stay(have, text);
    }
    if wanted > have {
        return done;
    }
    let leaving = quorum.members.iter().map(|m| m.id);
    let leaving = leaving.filter(|id| *id > u64::from(wanted)).max();
    let Some(leaving) = leaving else {
        return done;
    };
    let step = if quorum.leader > u64::from(wanted) {
        Step::Transfer(1)
    } else {
        Step::Remove(leaving)
    };
    Membership {
        replicas: have,
        step: Some(step),
        waits: Some(format!("master {leaving} leaves the quorum")),
    }
}

/// There are as many pods as wanted; do all of them count?
fn waits_for(wanted: u32, quorum: Option<&Quorum>) -> Option<String> {
    let quorum = quorum?;
    let counts = |id: &u64| quorum.members.iter().any(|m| m.id == *id && m.voter);
    let missing = (1..=u64::from(wanted)).find(|id| !counts(id))?;
    Some(format!("master {missing} is to join the quorum"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quorum(leader: u64, voters: &[u64]) -> Quorum {
        let member = |id: &u64| Member {
            id: *id,
            voter: true,
        };
        Quorum {
            leader,
            term: 3,
            members: voters.iter().map(member).collect(),
        }
    }

    #[test]
    fn masters_come_and_go_step_by_step() {
        let of = |wanted, have, quorum: Option<&Quorum>| {
            let plan = plan(wanted, have, quorum);
            (plan.replicas, plan.step, plan.waits.is_some())
        };
        let one = quorum(1, &[1]);
        let three = quorum(3, &[1, 2, 3]);
        let cases = [
            // At first, and at rest.
            (3, None, None, (3, None, false)),
            (1, Some(1), Some(&one), (1, None, false)),
            (3, Some(3), None, (3, None, false)),
            // Up: only from a group that is there.
            (3, Some(1), None, (1, None, true)),
            (3, Some(1), Some(&one), (3, None, false)),
            (3, Some(3), Some(&one), (3, None, true)),
            (5, Some(3), Some(&one), (3, None, true)),
            // Down: the lead, the highest, the pods.
            (1, Some(3), Some(&three), (3, Some(Step::Transfer(1)), true)),
            (
                1,
                Some(3),
                Some(&quorum(1, &[1, 2, 3])),
                (3, Some(Step::Remove(3)), true),
            ),
            (
                1,
                Some(3),
                Some(&quorum(1, &[1, 2])),
                (3, Some(Step::Remove(2)), true),
            ),
            (1, Some(3), Some(&one), (1, None, false)),
            // Nobody goes whom those that stay cannot replace.
            (1, Some(3), Some(&quorum(2, &[2, 3])), (3, None, true)),
            (1, Some(3), None, (3, None, true)),
        ];
        for (wanted, have, seen, expected) in cases {
            assert_eq!(
                of(wanted, have, seen),
                expected,
                "{have:?} to {wanted} with {seen:?}"
            );
        }
    }
}
