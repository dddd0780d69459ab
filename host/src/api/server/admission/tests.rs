//! Who is admitted and who gives way.

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::*;

/// A socket that was read, and nothing was there.
async fn silent_socket() -> (ClientSocket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let theirs = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let mut socket = ClientSocket::new(listener.accept().await.unwrap().0);
    assert!(futures_util::poll!(pin!(socket.read_u8())).is_pending());
    (socket, theirs)
}

#[test]
fn who_may_be_gone_gives_way_first_then_the_client_with_the_most_connections() {
    let now = Instant::now() + Duration::from_secs(60);
    let ago = |seconds| now - Duration::from_secs(seconds);
    let offer = |id, reason, seconds, connections| YieldOffer { id, reason, from: ago(seconds), connections };
    let mut offers = vec![
        offer(1, YieldReason::UnbegunChange, 9, 9),
        offer(2, YieldReason::Unbegun, 1, 9),
        offer(3, YieldReason::Unbegun, 5, 8),
        offer(4, YieldReason::Stalled, 1, 2),
        offer(5, YieldReason::Stalled, 3, 2),
        offer(6, YieldReason::Stalled, 9, 1),
        offer(7, YieldReason::Leaving, 0, 1),
        YieldOffer { from: now + Duration::from_secs(7), ..offer(8, YieldReason::Stalled, 0, 9) },
    ];
    let mut order = Vec::new();
    while let Ok(id) = pick(offers.iter().copied(), now) {
        order.push(id);
        offers.retain(|offer| offer.id != id);
    }
    assert_eq!(order, [7, 5, 4, 6, 2, 3, 1]);
    assert_eq!(pick(offers.iter().copied(), now), Err(Some(now + Duration::from_secs(7))));
    assert_eq!(pick([].into_iter(), now), Err(None));
}

#[tokio::test]
async fn as_many_give_way_as_wait_and_each_client_loses_in_turn() {
    let (socket, _theirs) = silent_socket().await;
    let (admission, memory) = (Arc::new(AdmissionControl::new(6)), MemoryBudget::new(0));
    let admit = |client: &str| admission.try_admit(&socket, client.parse().unwrap(), &memory).unwrap();
    let open = |client| {
        let connection = admit(client);
        connection.phases.record_bytes(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        // A request that was answered.
        drop(connection.phases.begin_request(&mut axum::http::Request::new(String::new())));
        connection
    };
    let clients = ["2001:db8::1", "10.0.0.1", "::ffff:10.0.0.1", "2001:db8::2", "2001:db8:0:1::2", "2001:db8::3"];
    let mut connections: Vec<_> = clients.map(|client| Some(open(client))).into();
    let (mut newcomers, mut order) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        newcomers.push(admit("10.9.9.9"));
        admission.make_room(Shortage::Place, 0).unwrap_err();
        let is_next = |it: &Option<AdmittedConnection>| it.as_ref().is_some_and(|it| it.give_way.is_cancelled());
        let next = connections.iter().position(is_next).expect("one gives way to each newcomer");
        order.push(next);
        connections[next] = None;
        assert!(newcomers.last().unwrap().acquire_place().await);
    }
    assert_eq!((order, newcomers.iter().all(AdmittedConnection::has_place)), (vec![0, 1, 3], true));
    assert_eq!(admission.open_connections(), 6);
    drop((connections, newcomers));
    assert!(admission.open.lock().by_client.is_empty());
}

#[tokio::test]
async fn among_many_spare_connections_one_gives_way_to_each_newcomer() {
    let (socket, _theirs) = silent_socket().await;
    let (admission, memory) = (Arc::new(AdmissionControl::new(0)), MemoryBudget::new(0));
    let admit = |client: &str| admission.try_admit(&socket, client.parse().unwrap(), &memory);
    let honest = admit("10.0.0.2").unwrap();
    let mut open = Vec::new();
    for count in 1..1_000 {
        open.push(admit("10.0.0.1").unwrap());
        open.retain(|connection| !connection.give_way.is_cancelled());
        assert_eq!(open.len(), count.min(CROWDED_SPARES - 1));
    }
    assert!(!honest.give_way.is_cancelled());
    // Those that give way are still closing.
    while let Some(connection) = admit("10.0.0.1") {
        open.push(connection);
    }
    assert_eq!(admission.open_connections(), SPARE_CONNECTIONS);
}
