//! CSV traces → nodes and instances. The form is seen by the names of the columns.
//!
//! Invariant: what cannot be read is named with file, line and column.

use std::{collections::BTreeMap, fs, path::Path, str::FromStr};

use skein_common::{
    Resources,
    placement::{GenericRequest, GenericResource, WHOLE_MILLIS},
};

const GPU: &str = "gpu";
const MIB: u64 = 1 << 20;
const GIB: f64 = 1_073_741_824.0;
/// For traces that say nothing of memory: more than anything asks for.
const UNLIMITED: u64 = 1 << 50;

pub(super) struct Trace {
    pub(super) nodes: Vec<TraceNode>,
    pub(super) instances: Vec<TraceInstances>,
    pub(super) has_memory: bool,
    /// What the instances ask for and no node says it has.
    pub(super) ignored: Vec<String>,
}

pub(super) struct TraceNode {
    pub(super) name: String,
    pub(super) capacity: Resources,
    pub(super) generic: Vec<GenericResource>,
}

/// Instances that ask for the same, of one service when it has a name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct TraceInstances {
    pub(super) service: Option<String>,
    pub(super) count: u32,
    pub(super) reservation: Resources,
    pub(super) generic: Vec<GenericRequest>,
    pub(super) max_per_node: Option<u32>,
    pub(super) priority: Option<u8>,
}

/// A file taken apart; no trace quotes its fields.
struct Table {
    file: String,
    columns: BTreeMap<String, usize>,
    names: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// One row, with everything a complaint needs.
#[derive(Clone, Copy)]
struct Row<'t> {
    table: &'t Table,
    number: usize,
}

impl Trace {
    pub(super) fn read(nodes: &Path, instances: &Path) -> Result<Self, String> {
        let (nodes, instances) = (Table::read(nodes)?, Table::read(instances)?);
        let has_memory = nodes.has("memory_mib");
        let nodes = read_nodes(&nodes)?;
        if nodes.is_empty() {
            return Err("there are no nodes".to_owned());
        }
        let machine = nodes.iter().map(|node| node.capacity.memory_bytes).max().unwrap_or(0);
        let mut instances = read_instances(&instances, machine)?;
        let ignored = leave_out(&nodes, &mut instances);
        Ok(Self { nodes, instances, has_memory, ignored })
    }
}

/// A trace of instances may speak of resources that the trace of nodes does not know.
fn leave_out(nodes: &[TraceNode], instances: &mut [TraceInstances]) -> Vec<String> {
    let known = |name: &str| nodes.iter().flat_map(|node| &node.generic).any(|there| there.name == name);
    let asked = instances.iter().flat_map(|instances| &instances.generic);
    let mut names: Vec<_> = asked.map(|request| request.name.clone()).collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| name != GPU && !known(name));
    for instances in instances {
        instances.generic.retain(|request| !names.contains(&request.name));
    }
    names.into_iter().map(|name| format!("{name}: no node says how much it has")).collect()
}

fn read_nodes(table: &Table) -> Result<Vec<TraceNode>, String> {
    let read = if table.has_all(&["sn", "cpu_milli", "memory_mib", "gpu"]) {
        openb_node
    } else if table.has_all(&["gpu_model", "gpu_capacity_num", "cpu_num", "node_name"]) {
        spot_node
    } else {
        return Err(table.unknown_form(
            "sn,cpu_milli,memory_mib,gpu,model or gpu_model,gpu_capacity_num,cpu_num,node_name",
        ));
    };
    table.rows().map(read).collect()
}

fn openb_node(row: Row<'_>) -> Result<TraceNode, String> {
    Ok(TraceNode {
        name: row.text("sn").to_owned(),
        capacity: Resources {
            cpu_millis: row.number("cpu_milli")?,
            memory_bytes: row.number::<u64>("memory_mib")?.saturating_mul(MIB),
        },
        generic: gpus(row.number("gpu")?, row.text("model")),
    })
}

fn spot_node(row: Row<'_>) -> Result<TraceNode, String> {
    Ok(TraceNode {
        name: row.text("node_name").to_owned(),
        capacity: Resources { cpu_millis: row.amount("cpu_num", 1_000.0)?, memory_bytes: UNLIMITED },
        generic: gpus(row.number("gpu_capacity_num")?, row.text("gpu_model")),
    })
}

fn gpus(count: u16, model: &str) -> Vec<GenericResource> {
    if count == 0 {
        return Vec::new();
    }
    vec![GenericResource { name: GPU.to_owned(), model: model.to_owned(), count }]
}

/// `machine`: memory of the largest node, which fractions of a machine are taken of.
fn read_instances(table: &Table, machine: u64) -> Result<Vec<TraceInstances>, String> {
    if table.has_all(&["name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli"]) {
        table.rows().map(openb_instance).collect()
    } else if table.has_all(&["app_name", "cpu_request", "gpu_request", "memory_request"]) {
        table.rows().map(dlrm_instance).collect()
    } else if table.has_all(&["cpu", "memory", "job_id", "task_id", "instances_num"]) {
        table.rows().map(|row| job_instances(row, machine)).collect()
    } else {
        Err(table.unknown_form(
            "name,cpu_milli,memory_mib,num_gpu,gpu_milli or instance_sn,app_name,cpu_request,gpu_request,\
             memory_request or cpu,memory,job_id,task_id,instances_num",
        ))
    }
}

fn openb_instance(row: Row<'_>) -> Result<TraceInstances, String> {
    let (count, millis): (u16, u16) = (row.number("num_gpu")?, row.number("gpu_milli")?);
    let models = row.text("gpu_spec").split('|').filter(|model| !model.is_empty());
    let models = models.map(str::to_owned).collect();
    let request = GenericRequest { name: GPU.to_owned(), count, millis: millis.min(WHOLE_MILLIS), models };
    let is_asked = request.count > 0 && request.millis > 0;
    Ok(TraceInstances {
        count: 1,
        reservation: Resources {
            cpu_millis: row.number("cpu_milli")?,
            memory_bytes: row.number::<u64>("memory_mib")?.saturating_mul(MIB),
        },
        generic: is_asked.then_some(request).into_iter().collect(),
        priority: match row.text("qos") {
            "LS" | "Guaranteed" => Some(80),
            "BE" => Some(20),
            _ => None,
        },
        ..TraceInstances::default()
    })
}

fn dlrm_instance(row: Row<'_>) -> Result<TraceInstances, String> {
    let whole = |name: &str, column: &str| -> Result<Option<GenericRequest>, String> {
        if !row.table.has(column) || row.text(column).is_empty() {
            return Ok(None);
        }
        let count = u16::try_from(row.amount(column, 1.0)?).unwrap_or(u16::MAX);
        let request =
            GenericRequest { name: name.to_owned(), count, millis: WHOLE_MILLIS, models: Vec::new() };
        Ok((count > 0).then_some(request))
    };
    let requests =
        [whole(GPU, "gpu_request")?, whole("rdma", "rdma_request")?, whole("disk", "disk_request")?];
    let most = match row.text("max_instance_per_node") {
        "" | "-1" => None,
        _ => Some(row.number("max_instance_per_node")?),
    };
    Ok(TraceInstances {
        service: Some(row.text("app_name").to_owned()),
        count: 1,
        reservation: Resources {
            cpu_millis: row.amount("cpu_request", 1_000.0)?,
            memory_bytes: row.amount("memory_request", GIB)?,
        },
        generic: requests.into_iter().flatten().collect(),
        max_per_node: most,
        priority: None,
    })
}

#[allow(clippy::cast_precision_loss)] // a fraction of a machine is not exact either
fn job_instances(row: Row<'_>, machine: u64) -> Result<TraceInstances, String> {
    let machine = if machine == UNLIMITED { 0.0 } else { machine as f64 };
    Ok(TraceInstances {
        service: Some(format!("{}.{}", row.text("job_id"), row.text("task_id"))),
        count: row.number("instances_num")?,
        reservation: Resources {
            cpu_millis: row.amount("cpu", 1_000.0)?,
            memory_bytes: row.amount("memory", machine)?,
        },
        ..TraceInstances::default()
    })
}

impl Table {
    fn read(path: &Path) -> Result<Self, String> {
        let file = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|error| format!("{file}: {error}"))?;
        Self::parse(file, &text)
    }

    fn parse(file: String, text: &str) -> Result<Self, String> {
        let split = |line: &str| line.split(',').map(|field| field.trim().to_owned()).collect::<Vec<_>>();
        let mut lines = text.lines();
        let names = split(lines.next().unwrap_or_default().trim_start_matches('\u{feff}'));
        let columns = names.iter().cloned().enumerate().map(|(place, name)| (name, place)).collect();
        let mut rows = Vec::new();
        for (number, line) in (2..).zip(lines) {
            let row = split(line);
            if line.trim().is_empty() {
                continue;
            }
            if row.len() != names.len() {
                let (there, wanted) = (row.len(), names.len());
                return Err(format!("{file}:{number}: {there} columns, the first line has {wanted}"));
            }
            rows.push(row);
        }
        Ok(Self { file, columns, names, rows })
    }

    fn has(&self, column: &str) -> bool {
        self.columns.contains_key(column)
    }

    fn has_all(&self, columns: &[&str]) -> bool {
        columns.iter().all(|column| self.has(column))
    }

    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        (0..self.rows.len()).map(|number| Row { table: self, number })
    }

    fn unknown_form(&self, expected: &str) -> String {
        format!(
            "{}:1: the columns {} are no known form: expected {expected}",
            self.file,
            self.names.join(",")
        )
    }
}

impl<'t> Row<'t> {
    /// Empty when there is no such column.
    fn text(&self, column: &str) -> &'t str {
        let place = self.table.columns.get(column);
        place.and_then(|place| self.table.rows[self.number].get(*place)).map_or("", String::as_str)
    }

    fn number<T: FromStr>(&self, column: &str) -> Result<T, String> {
        self.text(column).parse().map_err(|_| self.complaint(column, "a whole number"))
    }

    /// A decimal number times `unit`, as a whole number.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked against both ends
    fn amount(&self, column: &str, unit: f64) -> Result<u64, String> {
        let value: f64 = self.text(column).parse().map_err(|_| self.complaint(column, "a number"))?;
        let value = (value * unit).round();
        if (0.0..1e18).contains(&value) {
            Ok(value as u64)
        } else {
            Err(self.complaint(column, "a number from 0"))
        }
    }

    fn complaint(&self, column: &str, expected: &str) -> String {
        let (file, line) = (&self.table.file, self.number + 2);
        format!("{file}:{line}: {column}: {:?} is not {expected}", self.text(column))
    }
}
