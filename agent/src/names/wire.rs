//! Packets of the name service ↔ questions and answers.
//!
//! Invariant: any bytes get an answer with a code, or nothing; what is no question is never answered, so two servers
//! cannot talk to each other.
//! Deliberately not here: sockets, what a name means.

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, SRV},
    },
};
use skein_agent_core::names::{Answer, Fact, Kind};

/// Services keep their addresses; instances do not.
const TTL_SECONDS: u32 = 2;
/// Header of every packet.
const HEADER: usize = 12;
/// Never in pieces (RFC 9715).
const UDP_MAX: u16 = 1232;
const UDP_MIN: u16 = 512;
const TRUNCATED: u8 = 0x02;

/// A question that is to be answered.
#[derive(Debug)]
pub(super) struct Question {
    message: Message,
    query: Query,
    /// In lower case, without the last dot.
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// What a packet is.
#[derive(Debug)]
pub(super) enum Parsed {
    Question(Box<Question>),
    /// Answered without a look at the names.
    Refused(Vec<u8>),
    /// No question.
    Nothing,
}

pub(super) fn parse(packet: &[u8]) -> Parsed {
    let Some(&[high, low, flags]) = packet.get(..3) else { return Parsed::Nothing };
    if packet.len() < HEADER || flags & 0x80 != 0 {
        return Parsed::Nothing;
    }
    let op_code = OpCode::from_u8((flags >> 3) & 0x0f);
    let id = u16::from_be_bytes([high, low]);
    let refuse =
        |code| encode(&Message::error_msg(id, op_code, code)).map_or(Parsed::Nothing, Parsed::Refused);
    if op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    let Ok(message) = Message::from_vec(packet) else { return refuse(ResponseCode::FormErr) };
    let [query] = message.queries.as_slice() else { return refuse(ResponseCode::FormErr) };
    let is_transfer = matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR);
    if is_transfer || !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
        return refuse(ResponseCode::Refused);
    }
    let mut name = query.name().to_ascii().to_ascii_lowercase();
    if name.ends_with('.') {
        name.pop();
    }
    let (query, kind) = (query.clone(), kind(query.query_type()));
    let question = Question { message, query, name, kind };
    if question.message.version() > 0 {
        return question.refused(ResponseCode::BADVERS).map_or(Parsed::Nothing, Parsed::Refused);
    }
    Parsed::Question(Box::new(question))
}

fn kind(asked: RecordType) -> Kind {
    match asked {
        RecordType::A => Kind::A,
        RecordType::SRV => Kind::Srv,
        RecordType::ANY => Kind::Any,
        RecordType::NS | RecordType::SOA | RecordType::DS | RecordType::DNSKEY => Kind::Other,
        _ => Kind::Nothing,
    }
}

impl Question {
    /// Longest packet the asker takes by UDP.
    pub(super) fn udp_limit(&self) -> usize {
        self.message.max_payload().clamp(UDP_MIN, UDP_MAX).into()
    }

    /// `turn` decides which of several facts comes first.
    pub(super) fn answered(&self, answer: &Answer, turn: usize, limit: usize) -> Option<Vec<u8>> {
        let mut reply = self.reply();
        reply.metadata.authoritative = true;
        match answer {
            Answer::Facts(facts) => {
                let start = turn.checked_rem(facts.len()).unwrap_or_default();
                let (first, last) = facts.split_at(start);
                for fact in last.iter().chain(first) {
                    self.add(&mut reply, fact);
                }
            }
            Answer::NoSuchName => reply.metadata.response_code = ResponseCode::NXDomain,
            Answer::NotOurs => reply.metadata.response_code = ResponseCode::Refused,
        }
        let packet = encode(&reply)?;
        if packet.len() <= limit { Some(packet) } else { encode(&reply.truncate()) }
    }

    pub(super) fn refused(&self, code: ResponseCode) -> Option<Vec<u8>> {
        let mut reply = self.reply();
        reply.metadata.response_code = code;
        if let Some(edns) = &mut reply.edns {
            edns.set_rcode_high(code.high());
        }
        encode(&reply)
    }

    fn add(&self, reply: &mut Message, fact: &Fact) {
        let own = self.query.name().clone();
        match fact {
            Fact::Address(address) => {
                reply.add_answer(Record::from_rdata(own, TTL_SECONDS, RData::A(A(*address))));
            }
            Fact::Port { port, target, address } => {
                let Ok(mut target) = Name::from_ascii(target) else { return };
                target.set_fqdn(true);
                let port = RData::SRV(SRV::new(0, 1, *port, target.clone()));
                reply.add_answer(Record::from_rdata(own, TTL_SECONDS, port));
                let glue = Record::from_rdata(target, TTL_SECONDS, RData::A(A(*address)));
                if !reply.additionals.contains(&glue) {
                    reply.add_additional(glue);
                }
            }
        }
    }

    fn reply(&self) -> Message {
        let asked = &self.message.metadata;
        let mut reply = Message::new(asked.id, MessageType::Response, OpCode::Query);
        reply.metadata.recursion_desired = asked.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.add_query(self.query.clone());
        if self.message.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_MAX);
            reply.set_edns(edns);
        }
        reply
    }
}

fn encode(message: &Message) -> Option<Vec<u8>> {
    message.to_vec().ok()
}

/// Where the question of a packet ends, when it has one that is written out.
pub(super) fn question_end(packet: &[u8]) -> Option<usize> {
    let mut at = HEADER;
    loop {
        match *packet.get(at)? {
            0 => break,
            length if length < 64 => at += usize::from(length) + 1,
            _ => return None,
        }
    }
    let end = at + 5;
    (packet.len() >= end).then_some(end)
}

/// Whether `answer` is one to `question`, by number and name.
pub(super) fn is_answer(question: &[u8], answer: &[u8]) -> bool {
    let Some(end) = question_end(question) else { return false };
    let (Some(asked), Some(answered)) = (question.get(HEADER..end), answer.get(HEADER..end)) else {
        return false;
    };
    question.get(..2) == answer.get(..2)
        && answer.get(2).is_some_and(|flags| flags & 0x80 != 0)
        && asked.eq_ignore_ascii_case(answered)
}

/// What another server said, cut to what fits.
pub(super) fn cut(mut answer: Vec<u8>, limit: usize) -> Vec<u8> {
    if answer.len() <= limit {
        return answer;
    }
    let Some(end) = question_end(&answer) else { return Vec::new() };
    answer.truncate(end);
    if let Some(flags) = answer.get_mut(2) {
        *flags |= TRUNCATED;
    }
    if let Some(counts) = answer.get_mut(6..HEADER) {
        counts.fill(0);
    }
    answer
}

/// Who is answered at all by other servers' words: nobody on the Internet.
pub(super) const fn is_near(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(address) => address.is_private() || address.is_link_local() || address.is_loopback(),
        IpAddr::V6(address) => address.is_unique_local() || address.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn packet(name: &str, kind: RecordType, edns: Option<u16>) -> Vec<u8> {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        if let Some(payload) = edns {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        message.to_vec().unwrap()
    }

    fn question(packet: &[u8]) -> Box<Question> {
        match parse(packet) {
            Parsed::Question(question) => question,
            other => panic!("{other:?}"),
        }
    }

    fn refusal(packet: &[u8]) -> Option<ResponseCode> {
        match parse(packet) {
            Parsed::Refused(packet) => Some(Message::from_vec(&packet).unwrap().metadata.response_code),
            _ => None,
        }
    }

    #[test]
    fn a_question_is_answered_with_what_was_asked() {
        let question = question(&packet("Web.Shop.", RecordType::A, None));
        assert_eq!((question.name.as_str(), question.kind), ("web.shop", Kind::A));
        let facts = Answer::Facts(vec![Fact::Address(Ipv4Addr::new(10, 254, 0, 1))]);
        let reply = Message::from_vec(&question.answered(&facts, 0, 512).unwrap()).unwrap();
        assert_eq!((reply.metadata.id, reply.metadata.response_code), (7, ResponseCode::NoError));
        assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
        assert_eq!(reply.answers.len(), 1);
        assert_eq!(reply.answers[0].name.to_ascii(), "Web.Shop.", "as it was written: askers compare");
        assert!(reply.edns.is_none());
        let none = question.answered(&Answer::NoSuchName, 0, 512).unwrap();
        assert_eq!(Message::from_vec(&none).unwrap().metadata.response_code, ResponseCode::NXDomain);
    }

    #[test]
    fn what_is_too_long_is_cut_and_says_so() {
        let facts: Vec<_> = (0..100).map(|n| Fact::Address(Ipv4Addr::new(10, 254, 0, n))).collect();
        let answer = Answer::Facts(facts);
        let question = question(&packet("tasks.web.", RecordType::A, Some(4096)));
        assert_eq!(question.udp_limit(), 1232);
        let reply = question.answered(&answer, 3, question.udp_limit()).unwrap();
        let reply = Message::from_vec(&reply).unwrap();
        assert!(reply.metadata.truncation && reply.answers.is_empty() && reply.edns.is_some());
        let whole = Message::from_vec(&question.answered(&answer, 3, 65_535).unwrap()).unwrap();
        assert_eq!(whole.answers.len(), 100);
        let long = question.answered(&answer, 0, 65_535).unwrap();
        let short = cut(long, 512);
        let short = Message::from_vec(&short).unwrap();
        assert!(short.metadata.truncation && short.answers.is_empty() && short.queries.len() == 1);
    }

    #[test]
    fn what_cannot_be_answered_is_refused_with_its_number() {
        let fine = packet("web.", RecordType::A, None);
        let with = |at: usize, value: u8| {
            let mut packet = fine.clone();
            packet[at] = value;
            packet
        };
        for (packet, code) in [
            (with(2, 0x80), None),
            (fine[..11].to_vec(), None),
            (Vec::new(), None),
            (with(2, 5 << 3), Some(ResponseCode::NotImp)),
            (with(5, 2), Some(ResponseCode::FormErr)),
            (with(5, 0), Some(ResponseCode::FormErr)),
            (fine[..14].to_vec(), Some(ResponseCode::FormErr)),
            (packet("web.", RecordType::AXFR, None), Some(ResponseCode::Refused)),
        ] {
            assert_eq!(refusal(&packet), code, "{packet:?}");
        }
    }

    #[test]
    fn an_answer_belongs_to_its_question() {
        let asked = packet("example.org.", RecordType::A, None);
        let mut answer = asked.clone();
        assert!(!is_answer(&asked, &answer), "a question is no answer");
        answer[2] |= 0x80;
        assert!(is_answer(&asked, &answer));
        let mut other = packet("example.net.", RecordType::A, None);
        other[2] |= 0x80;
        assert!(!is_answer(&asked, &other));
        answer[0] ^= 1;
        assert!(!is_answer(&asked, &answer));
    }

    proptest! {
        #[test]
        fn any_bytes_get_an_answer_or_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            check(&bytes);
        }

        #[test]
        fn damaged_questions_too(
            damage in proptest::collection::vec((0_usize..60, any::<u8>()), 0..6),
            end in 0_usize..60,
            kind in any::<u16>(),
        ) {
            let mut bytes = packet("_8080._tcp.tasks.web.shop.", RecordType::from(kind), Some(1232));
            for (at, value) in damage {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            bytes.truncate(bytes.len().min(end + 12));
            check(&bytes);
        }
    }

    fn check(bytes: &[u8]) {
        let facts = Answer::Facts(vec![
            Fact::Address(Ipv4Addr::LOCALHOST),
            Fact::Port { port: 1, target: "a.tasks.web".to_owned(), address: Ipv4Addr::LOCALHOST },
        ]);
        if let Parsed::Question(question) = parse(bytes) {
            let _ = question.answered(&facts, 1, question.udp_limit());
            let _ = question.refused(ResponseCode::ServFail);
        }
        let _ = (question_end(bytes), is_answer(bytes, bytes), cut(bytes.to_vec(), 20));
    }
}
