//! Traces that are read, traces that are refused, and what comes out.

use std::{fs, path::Path};

use super::*;

const NODES: &str = "sn,cpu_milli,memory_mib,gpu,model\na,8000,16384,2,T4\nb,8000,16384,0,\n";
const INSTANCES: &str = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n\
    i1,2000,1024,1,500,T4|P100\ni2,2000,1024,1,1000,\ni3,9000,1024,0,0,\ni4,1000,1024,1,500,V100\n";

fn trace(folder: &Path, nodes: &str, instances: &str) -> Result<Trace, String> {
    let (nodes_file, instances_file) = (folder.join("nodes.csv"), folder.join("instances.csv"));
    fs::write(&nodes_file, nodes).unwrap();
    fs::write(&instances_file, instances).unwrap();
    Trace::read(&nodes_file, &instances_file)
}

#[test]
fn each_form_is_seen_by_its_columns() {
    let folder = tempfile::tempdir().unwrap();
    let spot = "gpu_model,gpu_capacity_num,cpu_num,node_name\nA,4,192,0\n";
    let dlrm = "instance_sn,role,app_name,cpu_request,gpu_request,rdma_request,memory_request,disk_request,\
        max_instance_per_node\ni0,HN,app_0,12,1,25,120.0,640.0,8\ni1,HN,app_0,12,1,25,120.0,640.0,8\n";
    let jobs =
        ",submit_time,duration,cpu,memory,job_id,task_id,instances_num,disk\n0,5,1.5,0.5,0.25,1,1,3,0\n";
    for (nodes, instances, asked, rejected) in
        [(NODES, INSTANCES, 4, 2), (spot, dlrm, 2, 0), (NODES, jobs, 3, 0), (spot, jobs, 3, 0)]
    {
        let trace = trace(folder.path(), nodes, instances).unwrap();
        for strategy in [Strategy::Spread, Strategy::Binpack, Strategy::Balanced] {
            let report = Replay::new(&trace, None).run(strategy);
            assert_eq!((report.asked, report.rejected), (asked, rejected), "{strategy} {instances}");
        }
    }
}

#[test]
fn what_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let bad_number = NODES.replace("b,8000", "b,eight");
    let short = format!("{INSTANCES}i5,1\n");
    for (nodes, instances, expected) in [
        (
            bad_number.as_str(),
            INSTANCES,
            format!("{}:3: cpu_milli: \"eight\" is not a whole number", path("nodes.csv")),
        ),
        (NODES, short.as_str(), format!("{}:6: 2 columns, the first line has 6", path("instances.csv"))),
        ("x,y\n1,2\n", INSTANCES, format!("{}:1: the columns x,y are no known form", path("nodes.csv"))),
    ] {
        let error = trace(folder.path(), nodes, instances).err().unwrap();
        assert!(error.starts_with(&expected), "{error}");
    }
    let missing =
        Trace::read(&folder.path().join("none.csv"), &folder.path().join("none.csv")).err().unwrap();
    assert!(missing.contains("none.csv: "), "{missing}");
}

#[test]
fn the_protocol_asks_for_130_percent_and_repeats_itself() {
    let folder = tempfile::tempdir().unwrap();
    let trace = trace(folder.path(), NODES, INSTANCES).unwrap();
    let run = |seed| {
        let report = Replay::new(&trace, Some(Protocol { seed })).run(Strategy::Balanced);
        (report.asked, report.rejected, report.gpu_percent_at_100, report.gpu_percent_at_130)
    };
    assert_eq!(run(7), run(7));
    let (.., at_100, at_130) = run(7);
    assert!(at_100.is_some() && at_130.is_some());
}

#[test]
fn the_figures_have_their_agreed_names() {
    let folder = tempfile::tempdir().unwrap();
    let trace = trace(folder.path(), NODES, INSTANCES).unwrap();
    let value = figures(&Replay::new(&trace, None).run(Strategy::Binpack));
    let names: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
    let mut expected = [
        "gpu_allocated_percent_at_100",
        "gpu_allocated_percent_at_130",
        "cpu_allocated_percent",
        "rejected",
        "placements_per_second",
        "p50_us",
        "p99_us",
    ];
    expected.sort_unstable();
    assert_eq!(names.iter().map(String::as_str).collect::<std::collections::BTreeSet<_>>(), expected.into());
}
