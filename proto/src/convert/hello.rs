//! The first message of an agent.

use skein_common::{ClusterId, NodeId, instance::InstanceReport, node::NodeDescription};

use super::{InvalidMessage, id, required};
use crate::v1;

/// Who an agent is and everything it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    pub protocol: u32,
    /// `None` when the agent has never been welcomed.
    pub cluster_id: Option<ClusterId>,
    pub node_id: NodeId,
    /// Grows with every start of the agent.
    pub incarnation: u64,
    /// Highest term it has obeyed.
    pub term: u64,
    pub description: NodeDescription,
    pub instances: Vec<InstanceReport>,
}

impl From<&Hello> for v1::Hello {
    fn from(hello: &Hello) -> Self {
        Self {
            protocol: hello.protocol,
            cluster_id: hello.cluster_id.map(|id| id.to_string()).unwrap_or_default(),
            node_id: hello.node_id.to_string(),
            incarnation: hello.incarnation,
            term: hello.term,
            description: Some((&hello.description).into()),
            instances: hello.instances.iter().map(v1::InstanceReport::from).collect(),
        }
    }
}

impl TryFrom<v1::Hello> for Hello {
    type Error = InvalidMessage;

    fn try_from(wire: v1::Hello) -> Result<Self, InvalidMessage> {
        let cluster_id = match wire.cluster_id.as_str() {
            "" => None,
            text => Some(id("cluster_id", text)?),
        };
        Ok(Self {
            protocol: wire.protocol,
            cluster_id,
            node_id: id("node_id", &wire.node_id)?,
            incarnation: wire.incarnation,
            term: wire.term,
            description: required("description", wire.description)?.try_into()?,
            instances: wire.instances.into_iter().map(InstanceReport::try_from).collect::<Result<_, _>>()?,
        })
    }
}
