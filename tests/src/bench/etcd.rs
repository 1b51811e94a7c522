//! Three etcd members on loopback, to measure beside: only `Put` and `Status` of its API.
//!
//! Invariant: what is not used of a message is skipped when it is read (field numbers are etcd's).

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use tonic::{
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::load::Template;
use crate::{ports::Port, process::Process, wait};

const FORM_LIMIT: Duration = Duration::from_secs(20);

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

/// Ends with its drop.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Process>,
    leader: Port,
}

impl Etcd {
    /// # Errors
    /// When there is no etcd, or it does not form.
    pub async fn start(folder: &Path) -> Result<Self> {
        let mut ports = Vec::new();
        for number in 1..=3 {
            ports.push((format!("etcd{number}"), Port::reserve()?, Port::reserve()?));
        }
        let initial: Vec<_> = ports.iter().map(|(name, _, peer)| format!("{name}=http://{peer}")).collect();
        let mut members = Vec::new();
        for (name, client, peer) in &ports {
            let arguments = arguments(name, client, peer, &initial.join(","), folder)?;
            let mut member = Process::foreign(name, Path::new("etcd"), arguments, folder);
            member.start().context("etcd: run tests/setup.sh etcd first")?;
            members.push(member);
        }
        let leader = wait::until("an etcd leader", FORM_LIMIT, async || {
            for (_, client, _) in &ports {
                if leads(client).await.unwrap_or(false) {
                    return Ok(client.clone());
                }
            }
            Err("none".to_owned())
        })
        .await?;
        Ok(Self { members, leader })
    }

    /// Of the leader.
    #[must_use]
    pub fn address(&self) -> String {
        self.leader.address()
    }

    /// # Errors
    /// When a member has ended.
    pub fn pids(&self) -> Result<Vec<u32>> {
        self.members.iter().map(|member| member.pid().context("the member runs")).collect()
    }
}

fn arguments(name: &str, client: &Port, peer: &Port, initial: &str, folder: &Path) -> Result<Vec<String>> {
    let data = folder.join(name);
    let data = data.to_str().context("a path in UTF-8")?;
    let flags = [
        ("name", name.to_owned()),
        ("data-dir", data.to_owned()),
        ("listen-client-urls", format!("http://{client}")),
        ("advertise-client-urls", format!("http://{client}")),
        ("listen-peer-urls", format!("http://{peer}")),
        ("initial-advertise-peer-urls", format!("http://{peer}")),
        ("initial-cluster", initial.to_owned()),
        ("initial-cluster-state", "new".to_owned()),
        ("logger", "zap".to_owned()),
        ("log-level", "error".to_owned()),
    ];
    Ok(flags.into_iter().map(|(flag, value)| format!("--{flag}={value}")).collect())
}

async fn leads(member: &Port) -> Result<bool> {
    let channel = Endpoint::from_shared(format!("http://{member}"))?.connect().await?;
    let status: StatusResponse =
        call(&mut Grpc::new(channel), "/etcdserverpb.Maintenance/Status", StatusRequest {}).await?;
    Ok(status.leader != 0 && status.header.is_some_and(|header| header.member_id == status.leader))
}

async fn call<Q, A>(client: &mut Grpc<Channel>, path: &'static str, request: Q) -> Result<A>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    client.ready().await?;
    let codec = ProstCodec::<Q, A>::default();
    Ok(client.unary(tonic::Request::new(request), PathAndQuery::from_static(path), codec).await?.into_inner())
}

/// Puts of this value to one key.
///
/// # Errors
/// Never, as the value is in the message.
pub fn put(number: usize, value: &str) -> Result<Template> {
    let request = PutRequest { key: format!("bench-{number}").into_bytes(), value: value.into() };
    Template::new("/etcdserverpb.KV/Put", &request, value)
}
