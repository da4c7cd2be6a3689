
#[test]
fn t7_again_content() {
    let care = Care { exhaustive: 300, most: 300, again: 100_000 };
    for scene in scene::flattenings(1).into_iter().chain(scene::rebases(1)) {
        let countdown = Arc::<Countdown>::default();
        scene.run(&FaultDirectory::new(scene.disk(), &countdown)).unwrap();
        for (nth, call) in countdown.seen().into_iter().enumerate() {
            if !matches!(call, Call::Sync) { continue; }
            let (disk, countdown) = (scene.disk(), Arc::<Countdown>::default());
            countdown.arm(nth as u64, How::Refused, EIO);
            let _ = scene.run(&FaultDirectory::new(disk.clone(), &countdown));
            let struck = countdown.struck().unwrap();
            if scene.run(&disk).is_err() { continue; }
            disk.mark(DONE);
            let seen = scene.judge(&disk, care, |seen| seen.broken.contains(&super::judge::Broken::Content));
            if let Some(first) = seen.first {
                println!("T7 {}: {} nth {nth}: {:?}: {}", scene.what, struck.storage, seen.broken, first.lines().next().unwrap());
            }
        }
    }
}
