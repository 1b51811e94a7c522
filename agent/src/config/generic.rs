//! `gpu=4:A100` → a generic resource of the node.

use skein_common::placement::GenericResource;

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

#[cfg(test)]
mod tests {
    use super::*;

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
