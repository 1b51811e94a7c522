//! Series and policies that are read and refused, and what comes out.

use std::path::Path;

use super::*;

const POLICY: &str = "targets: { load: 80% }\n";

fn args(folder: &Path, policy: &str, series: &str, capacity: f64) -> Args {
    let (policy_file, series_file) = (folder.join("policy.yaml"), folder.join("series.csv"));
    fs::write(&policy_file, policy).unwrap();
    fs::write(&series_file, series).unwrap();
    Args {
        policy: policy_file,
        series: series_file,
        capacity_per_instance: capacity,
        start_delay: Duration::from_secs(180),
        mode: None,
        json: true,
        svg: Some(folder.join("chart.svg")),
    }
}

fn report(args: &Args) -> Result<Report, String> {
    let policy = policy(args).map_err(|failure| failure.to_string())?;
    let series = Series::read(&args.series)?;
    let setting = Setting::new(&policy, args.capacity_per_instance, args.start_delay)?;
    let report = replay::run(&setting, &series);
    fs::write(args.svg.as_ref().unwrap(), chart::render(&series, &report, args.capacity_per_instance))
        .unwrap();
    Ok(report)
}

/// One value a minute from midnight.
fn minutes(demand: impl Iterator<Item = u32>) -> String {
    let mut text = "timestamp,value\n".to_owned();
    for (minute, demand) in demand.enumerate() {
        let (day, hour) = (1 + minute / 1440, minute / 60 % 24);
        text += &format!("2024-01-{day:02} {hour:02}:{:02}:00,{demand}\n", minute % 60);
    }
    text
}

#[test]
fn a_step_is_unserved_until_new_instances_serve() {
    let folder = tempfile::tempdir().unwrap();
    // 4 instances for 32; then 64 for ten minutes: 24 short in each of three minutes of 960 in all.
    let series = minutes((0..20).map(|minute| if minute < 10 { 32 } else { 64 }));
    let args = Args { mode: Some(AutoscaleMode::Reactive), ..args(folder.path(), POLICY, &series, 10.0) };
    let report = report(&args).unwrap();
    let figures = figures(&report);
    assert_eq!(figures["unserved_percent"], 7.5);
    assert_eq!(figures["minutes_short_percent"], 15.0);
    assert_eq!(figures["actions"], 1);
    // 13 minutes of 4, 7 minutes of 8.
    assert_eq!(figures["provisioned_over_demand"], 1.125);
    let chart = fs::read_to_string(folder.path().join("chart.svg")).unwrap();
    assert!(chart.contains("<polyline") && chart.ends_with("</svg>\n"), "{chart}");
}

#[test]
fn what_comes_every_hour_is_there_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let series = minutes((0..2_880).map(|minute| if minute % 60 < 10 { 90 } else { 10 }));
    let run = |mode| {
        let args = Args { mode: Some(mode), ..args(folder.path(), POLICY, &series, 10.0) };
        report(&args).unwrap()
    };
    let (reactive, hybrid) = (run(AutoscaleMode::Reactive), run(AutoscaleMode::Hybrid));
    assert!(hybrid.unserved_percent < reactive.unserved_percent / 5.0, "{}", figures(&hybrid));
    assert!(hybrid.trusted.contains_key("hourly season") && hybrid.trusted.contains_key("as yesterday"));
    let text = table(AutoscaleMode::Hybrid, &hybrid, &reactive);
    assert!(
        text.contains("hybrid ") && text.contains("reactive ") && text.contains("hourly season"),
        "{text}"
    );
}

#[test]
fn coarse_steps_are_filled_in_and_other_forms_of_time_are_read() {
    let folder = tempfile::tempdir().unwrap();
    for series in
        ["t,v\n2024-01-01 00:00:00,0\n2024-01-01T00:05:00Z,10\n", "t,v\n1700000000,0\n1700000300,10\n"]
    {
        fs::write(folder.path().join("x.csv"), series).unwrap();
        let read = Series::read(&folder.path().join("x.csv")).unwrap();
        assert_eq!((read.demand, read.step), (vec![0.0, 2.0, 4.0, 6.0, 8.0], Duration::from_secs(60)));
    }
}

#[test]
fn what_cannot_be_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let good = minutes(0..3);
    let bad = |line: &str| format!("{good}{line}\n");
    for (policy, series, capacity, expected) in [
        (POLICY, bad("2024-01-01 00:03:00,NaN"), 1.0, "series.csv:5: NaN is not a demand"),
        (POLICY, bad("2024-01-01 00:03:00,-1"), 1.0, "series.csv:5: -1 is not a demand"),
        (POLICY, bad("2024-01-01 00:03:00,many"), 1.0, "series.csv:5: \"many\" is not a number"),
        (POLICY, bad("yesterday,1"), 1.0, "series.csv:5: \"yesterday\" is not a time"),
        (POLICY, bad("1,2,3"), 1.0, "series.csv:5: \"1,2,3\" is not timestamp,value"),
        (POLICY, "t,v\n".to_owned(), 1.0, "series.csv:1: two values at least"),
        (POLICY, good.clone(), 0.0, "--capacity-per-instance: 0 is not"),
        (POLICY, good.clone(), f64::NAN, "--capacity-per-instance: NaN is not"),
        ("targets: { load: 0 }\n", good.clone(), 1.0, "policy.yaml:1:18: targets.load: a target of 0"),
        ("targets: { memory: 1 }\n", good.clone(), 1.0, "no target for load, cpu or requests"),
        (
            "min: 3\nmax: 2\ntargets: { load: 1 }\n",
            good.clone(),
            1.0,
            "policy.yaml:1:6: min: 3 is more than max, 2",
        ),
        ("targets: [\n", good.clone(), 1.0, "policy.yaml:"),
        ("", good.clone(), 1.0, "policy.yaml"),
    ] {
        let error = report(&args(folder.path(), policy, &series, capacity)).err().unwrap();
        assert!(error.contains(expected), "{error}\n{expected}");
    }
    assert!(mode("fast").unwrap_err().contains("hybrid"));
    assert_eq!(delay("5"), Ok(Duration::from_secs(300)));
    assert_eq!(delay("90s"), Ok(Duration::from_secs(90)));
    assert!(delay("soon").is_err() && delay("9 days").is_err());
}
