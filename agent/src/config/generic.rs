//! `gpu=4:A100` → a generic resource of the node; `gpu:0=/dev/dri/card0` → a file behind one of its devices.

use skein_common::placement::GenericResource;

use crate::runtime::docker::DevicePaths;

pub(super) fn check(texts: &[String], wrong: &mut Vec<String>) -> Vec<GenericResource> {
    let texts = texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
    let parsed = texts.filter_map(|text| {
        let parsed = parse(text);
        if parsed.is_none() {
            wrong.push(format!("resource: {text:?} is not NAME=COUNT or NAME=COUNT:MODEL, e.g. gpu=4:A100"));
        }
        parsed
    });
    parsed.collect()
}

fn parse(text: &str) -> Option<GenericResource> {
    let (name, rest) = text.split_once('=')?;
    let (count, model) = rest.split_once(':').unwrap_or((rest, ""));
    let count = count.parse().ok().filter(|count| *count > 0)?;
    (!name.is_empty()).then(|| GenericResource { name: name.to_owned(), model: model.to_owned(), count })
}

/// Devices of one name are numbered in the order of the node's resources.
pub(super) fn check_devices(
    texts: &[String],
    resources: &[GenericResource],
    wrong: &mut Vec<String>,
) -> DevicePaths {
    let mut paths = DevicePaths::new();
    for text in texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty()) {
        let Some((name, number, path)) = parse_device(text) else {
            wrong.push(format!("device: {text:?} is not RESOURCE:NUMBER=/PATH, e.g. gpu:0=/dev/dri/card0"));
            continue;
        };
        let of_name = resources.iter().filter(|resource| resource.name == name);
        let count: u32 = of_name.map(|resource| u32::from(resource.count)).sum();
        if u32::from(number) >= count {
            wrong.push(format!(
                "device: {text:?}: the node has {count} of {name:?}, numbered from 0 (--resource)"
            ));
            continue;
        }
        paths.entry((name.to_owned(), number)).or_default().push(path.to_owned());
    }
    paths
}

fn parse_device(text: &str) -> Option<(&str, u16, &str)> {
    let (device, path) = text.split_once('=')?;
    let (name, number) = device.rsplit_once(':')?;
    let number = number.parse().ok()?;
    (!name.is_empty() && path.starts_with('/')).then_some((name, number, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_belong_to_devices_that_are_there() {
        let resources = check(&["fpga=1:a", "fpga=1:b"].map(str::to_owned), &mut Vec::new());
        let mut wrong = Vec::new();
        let texts = [
            "fpga:0=/dev/a",
            "fpga:1=/dev/b",
            "fpga:1=/dev/c",
            "fpga:2=/dev/d",
            "gpu:0=/dev/e",
            "fpga=/x",
            "fpga:0=x",
        ];
        let paths = check_devices(&texts.map(str::to_owned), &resources, &mut wrong);
        assert_eq!(paths[&("fpga".to_owned(), 0)], ["/dev/a"]);
        assert_eq!(paths[&("fpga".to_owned(), 1)], ["/dev/b", "/dev/c"]);
        assert_eq!((paths.len(), wrong.len()), (2, 4), "{wrong:?}");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let mut wrong = Vec::new();
        let texts = ["gpu=4:A100", "licence=8", "gpu", "gpu=0", "=1", "gpu=many"].map(str::to_owned);
        let read = check(&texts, &mut wrong);
        let resource = |name: &str, count, model: &str| GenericResource {
            name: name.to_owned(),
            model: model.to_owned(),
            count,
        };
        assert_eq!(read, [resource("gpu", 4, "A100"), resource("licence", 8, "")]);
        assert_eq!(wrong.len(), 4, "{wrong:?}");
    }
}
