//! Devices of one node: what is free of each, and which ones an instance gets.
//!
//! Invariant: whole numbers; the tightest devices that suit are taken, the lowest number first.

use std::{collections::BTreeMap, rc::Rc};

use skein_common::{
    node::Node,
    placement::{DeviceShare, GenericRequest, WHOLE_MILLIS},
};

use crate::state::ClusterState;

/// Names of resources and models as numbers.
#[derive(Clone, Default)]
pub(super) struct Names {
    numbers: BTreeMap<String, u32>,
    texts: Vec<Rc<str>>,
}

/// The devices of one name on one node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bank {
    pub(super) name: u32,
    pub(super) devices: Vec<Device>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Device {
    pub(super) model: u32,
    pub(super) free: u16,
}

/// A request with its names as numbers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ask {
    pub(super) name: u32,
    pub(super) count: u16,
    pub(super) millis: u16,
    /// Empty = any.
    pub(super) models: Vec<u32>,
}

impl Names {
    pub(super) fn number(&mut self, text: &str) -> u32 {
        if let Some(known) = self.numbers.get(text) {
            return *known;
        }
        let number = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        self.texts.push(text.into());
        self.numbers.insert(text.to_owned(), number);
        number
    }

    pub(super) fn text(&self, number: u32) -> &str {
        self.texts.get(number as usize).map_or("", AsRef::as_ref)
    }

    pub(super) fn shared(&self, number: u32) -> Rc<str> {
        self.texts.get(number as usize).map_or_else(|| "".into(), Rc::clone)
    }

    pub(super) fn ask(&mut self, request: &GenericRequest) -> Ask {
        Ask {
            name: self.number(&request.name),
            count: request.count,
            millis: request.millis,
            models: request.models.iter().map(|model| self.number(model)).collect(),
        }
    }
}

/// What the node has, less what its instances hold.
pub(super) fn banks(state: &ClusterState, node: &Node, names: &mut Names) -> Vec<Bank> {
    let mut banks: Vec<Bank> = Vec::new();
    for resource in &node.description.generic {
        let (name, model) = (names.number(&resource.name), names.number(&resource.model));
        let device = Device { model, free: WHOLE_MILLIS };
        let devices = std::iter::repeat_n(device, usize::from(resource.count));
        match banks.iter_mut().find(|bank| bank.name == name) {
            Some(bank) => bank.devices.extend(devices),
            None => banks.push(Bank { name, devices: devices.collect() }),
        }
    }
    if banks.is_empty() {
        return banks;
    }
    let there = state.instances_on(node.id).filter(|instance| instance.occupies().is_some());
    for share in there.flat_map(|instance| &instance.devices) {
        let name = names.number(&share.name);
        let bank = banks.iter_mut().find(|bank| bank.name == name);
        if let Some(device) = bank.and_then(|bank| bank.devices.get_mut(usize::from(share.device))) {
            device.free = device.free.saturating_sub(share.millis);
        }
    }
    banks
}

impl Ask {
    fn accepts(&self, device: Device) -> bool {
        self.models.is_empty() || self.models.contains(&device.model)
    }

    pub(super) fn suits(&self, device: Device) -> bool {
        device.free >= self.millis && self.accepts(device)
    }
}

impl Bank {
    pub(super) fn capacity(&self) -> u64 {
        u64::from(WHOLE_MILLIS) * self.devices.len() as u64
    }

    pub(super) fn free(&self) -> u64 {
        self.devices.iter().map(|device| u64::from(device.free)).sum()
    }

    pub(super) fn fits(&self, ask: &Ask) -> bool {
        let count = usize::from(ask.count);
        self.devices.iter().filter(|device| ask.suits(**device)).take(count).count() == count
    }

    /// Devices that would suit, were they free.
    pub(super) fn suiting(&self, ask: &Ask) -> usize {
        self.devices.iter().filter(|device| ask.accepts(**device)).count()
    }

    /// The tightest that suit.
    pub(super) fn choose(&self, ask: &Ask) -> Option<Vec<u16>> {
        let mut suiting: Vec<(u16, u16)> = (0u16..)
            .zip(&self.devices)
            .filter(|(_, device)| ask.suits(**device))
            .map(|(number, device)| (device.free, number))
            .collect();
        suiting.sort_unstable();
        suiting.truncate(usize::from(ask.count));
        let chosen: Vec<_> = suiting.into_iter().map(|(_, number)| number).collect();
        (chosen.len() == usize::from(ask.count)).then_some(chosen)
    }

    pub(super) fn take(&mut self, devices: &[u16], millis: u16) {
        for number in devices {
            if let Some(device) = self.devices.get_mut(usize::from(*number)) {
                device.free = device.free.saturating_sub(millis);
            }
        }
    }

    pub(super) fn shares(&self, names: &Names, devices: &[u16], millis: u16) -> Vec<DeviceShare> {
        let name = names.text(self.name);
        devices.iter().map(|device| DeviceShare { name: name.to_owned(), device: *device, millis }).collect()
    }
}
