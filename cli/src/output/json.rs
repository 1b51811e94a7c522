//! Protobuf JSON of any message of the API.
//!
//! Invariant: written from the descriptors that server reflection serves, so it is what
//! reflection clients show: camelCase names, enums by name, 64-bit numbers as text, defaults left out.

use std::sync::OnceLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::Value;

fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(skein_proto::FILE_DESCRIPTOR_SET).unwrap_or_default())
}

/// `name` is the message's in `skein.v1`.
pub fn of_message(name: &str, message: &impl Message) -> Value {
    serialized(name, message, &SerializeOptions::new())
}

/// The same with the names of the .proto files, as paths of fields have them.
pub fn with_field_names(name: &str, message: &impl Message) -> Value {
    serialized(name, message, &SerializeOptions::new().use_proto_field_name(true))
}

fn serialized(name: &str, message: &impl Message, options: &SerializeOptions) -> Value {
    let described = || -> Option<Value> {
        let descriptor = pool().get_message_by_name(&format!("skein.v1.{name}"))?;
        let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).ok()?;
        dynamic.serialize_with_options(serde_json::value::Serializer, options).ok()
    };
    described().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skein_proto::v1;

    use super::*;

    #[test]
    fn looks_as_reflection_clients_show_it() {
        let status = v1::ServiceStatus { desired: 3, ..Default::default() };
        let service = v1::Service {
            id: "0000000000001".to_owned(),
            generation: 7,
            status: Some(status),
            created_at: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
            ..Default::default()
        };
        assert_eq!(
            of_message("Service", &service),
            json!({
                "id": "0000000000001", "generation": "7", "status": { "desired": 3 },
                "createdAt": "1970-01-01T00:00:01Z"
            })
        );
        let observed = v1::Observed { phase: v1::Phase::Ready.into(), attempt: 2, ..Default::default() };
        assert_eq!(of_message("Observed", &observed), json!({ "phase": "PHASE_READY", "attempt": 2 }));
        assert_eq!(of_message("NoSuchThing", &observed), Value::Null);
    }
}
