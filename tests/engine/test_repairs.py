"""What recovers by itself, what the agent repairs, and what it leaves alone meanwhile."""

import pytest
from engine.apps import Content, after, app, health, shell, worker
from engine.board import Board, assert_success, limits

EXTERNAL_NETWORK = app(
    {"networks": {"default": {"name": "plant", "external": True}}}, worker=worker()
)
EXTERNAL_VOLUME = app(
    {"volumes": {"archive": {"external": True}}}, worker=worker(volumes=["archive:/archive"])
)

DATA: Content = {"volumes": {"data": {}}}
SLOW_DATABASE = shell(
    # Its first start takes a while, and a stop in the middle of it leaves half a database.
    "trap 'exit 1' TERM; if ! test -e /data/made; then test ! -e /data/half || exit 3;"
    "touch /data/half; for i in $(seq 8); do sleep 1; done; rm /data/half; touch /data/made; fi;"
    "touch /tmp/listens; while :; do sleep 0.2; done",
    volumes=["data:/data"],
)
DATABASE_MADE = "test -e /data/made && test ! -e /data/half"


class TestAFirstStartThatTakesTime:
    """A database makes its files; what needs it ends until it listens."""

    def test_a_service_that_ends_until_the_database_listens_runs_in_the_end(
        self, board: Board
    ) -> None:
        web = shell("test -e /data/made || exit 1; exec sleep 3600", restart="always")
        board.preload("shop", app(DATA, db=SLOW_DATABASE, web={**web, "volumes": ["data:/data"]}))
        board.device.start_dockerd()
        board.record_compose_calls()
        run = board.begin(env=limits(settle=1, app=120))
        run.read_until("shop: web restarted")
        assert_success(run.end())
        assert board.compose_calls() == ["shop up -d --pull never --no-build"]
        board.shell(f"docker exec shop-db-1 sh -c '{DATABASE_MADE}'")

    def test_a_health_check_that_gives_up_too_early_costs_another_up(self, board: Board) -> None:
        db = {**SLOW_DATABASE, **health("test -e /tmp/listens", retries=2)}
        board.preload("shop", app(DATA, db=db, web=worker(**after("db", "service_healthy"))))
        board.device.start_dockerd()
        run = board.start(env=limits(settle=1, app=90))
        assert run.exit_status == 0, run.stderr
        assert "dependency-failed" in run.stderr
        assert board.states() == {"shop-db-1": "running", "shop-web-1": "running"}
        board.shell(f"docker exec shop-db-1 sh -c '{DATABASE_MADE}'")

    def test_an_unhealthy_container_that_gets_healthy_runs(self, board: Board) -> None:
        slow = shell("sleep 9; touch /tmp/ok; exec sleep 3600", **health("test -e /tmp/ok"))
        board.preload("slow", app(worker=slow))
        board.device.start_dockerd()
        run = board.begin(env=limits(settle=0.5, app=60))
        run.read_until("slow: worker is unhealthy")
        assert_success(run.end())

    def test_a_health_check_that_has_not_spoken_is_no_failure(self, board: Board) -> None:
        rare = health("true", interval="90s", start_period="120s")
        board.preload("rare", app(worker=worker(**rare)))
        board.device.start_dockerd()
        run = board.start_well(env=limits(settle=0.5, app=4))
        assert "rare: runs, the health of worker is not known yet" in run.stderr


LATE = "/srv/late"


@pytest.mark.parametrize(
    ("content", "word", "appears"),
    [
        (EXTERNAL_NETWORK, "external-network-missing", "docker network create plant"),
        (EXTERNAL_VOLUME, "external-volume-missing", "docker volume create archive"),
        (app(worker=worker(devices=["/dev/ttyUSB9:/dev/ttyUSB9"])), "device-missing",
         "mknod /dev/ttyUSB9 c 1 3"),
        (app(worker=worker(ports=["192.0.2.7:18080:80"])), "address-missing",
         "ip addr add 192.0.2.7/24 dev lo"),
        (app(worker=worker(volumes=[{"type": "bind", "source": LATE, "target": "/late",
                                     "bind": {"create_host_path": False}}])), "mount-failed",
         f"mkdir {LATE}"),
    ],
    ids=["network", "volume", "device", "address", "bind source"],
)  # fmt: skip
def test_what_comes_late_from_outside_is_waited_for(
    board: Board, content: Content, word: str, appears: str
) -> None:
    board.preload("late", content)
    board.preload_sample("shop")
    board.device.start_dockerd()
    run = board.begin(env=limits(app=60, settle=0.5))
    run.read_until(f"late: {word}")
    # It has been tried before, and is tried again.
    run.read_until(f"late: {word}")
    board.shell(appears)
    ended = run.end()
    assert_success(ended)
    assert board.states("late") == {"late-worker-1": "running"}


def test_a_port_that_another_app_gives_back_is_taken(board: Board) -> None:
    board.preload("web", app(worker=worker(ports=["18080:80"])))
    board.device.start_dockerd()
    squatter = board.device.popen(["busybox", "nc", "-l", "-p", "18080"])
    board.shell("until ss -Hltn | grep -q :18080; do :; done")
    run = board.begin()
    run.read_until("web: port-taken")
    squatter.kill()
    assert_success(run.end())
    assert board.states() == {"web-worker-1": "running"}


class TestANetworkThatIsGone:
    """A power cut may leave a container without the network that it was made for."""

    def test_a_stopped_container_is_connected_to_the_one_made_anew(self, board: Board) -> None:
        board.preload("stale", app(DATA, worker=worker(volumes=["data:/data"])))
        board.device.start_dockerd()
        board.start_well()
        board.shell("docker exec stale-worker-1 sh -c 'echo week >/written; touch /data/keep'")
        board.shell("docker kill stale-worker-1; docker network rm stale_default")
        before = board.possessions()
        ids = set(board.lives())
        run = board.start()
        assert run.exit_status == 0, run.stderr
        assert "'stale-worker-1' is connected to 'stale_default' again" in run.stderr
        assert board.states() == {"stale-worker-1": "running"}
        assert set(board.lives()) == ids
        assert board.shell("docker exec stale-worker-1 cat /written") == "week\n"
        (attached,) = board.containers()[0]["NetworkSettings"]["Networks"].values()
        assert "worker" in attached["Aliases"]
        assert attached["IPAddress"]
        assert board.possessions() == before

    def test_one_that_cannot_be_connected_is_made_anew_alone(self, board: Board) -> None:
        subnet = {"ipam": {"config": [{"subnet": "10.91.0.0/24"}]}}
        pinned = worker(networks={"default": {"ipv4_address": "10.91.0.9"}})
        board.preload("stale", app({"networks": {"default": subnet}}, db=worker(), worker=pinned))
        board.device.start_dockerd()
        board.start_well()
        db = board.api.inspect_container("stale-db-1")["Id"]
        old = board.api.inspect_container("stale-worker-1")["Id"]
        board.shell("docker kill stale-worker-1; docker network disconnect -f stale_default "
                    "stale-db-1; docker network rm stale_default; "
                    "docker network connect --alias db none stale-db-1 || true")  # fmt: skip
        subnet["ipam"]["config"][0]["subnet"] = "10.92.0.0/24"
        del pinned["networks"]["default"]["ipv4_address"]
        board.may_go.add(f"container stale-worker-1 {old[:12]}")
        board.preload("stale", app({"networks": {"default": subnet}}, db=worker(), worker=pinned))
        run = board.start()
        assert run.exit_status == 0, run.stderr
        assert board.api.inspect_container("stale-db-1")["Id"] == db

    def test_a_container_that_runs_without_its_network_is_connected(self, board: Board) -> None:
        board.preload("lonely", app(worker=worker(ports=["18081:80"])))
        board.device.start_dockerd()
        board.start_well()
        before = board.lives()
        board.shell("docker network disconnect -f lonely_default lonely-worker-1")
        assert board.containers()[0]["NetworkSettings"]["Networks"] == {}
        run = board.start()
        assert run.exit_status == 0, run.stderr
        (found,) = board.containers()
        assert list(found["NetworkSettings"]["Networks"]) == ["lonely_default"]
        assert found["NetworkSettings"]["Ports"]["80/tcp"]
        assert board.lives() == before


def test_a_container_that_was_only_created_is_started(board: Board) -> None:
    board.preload("cut-off", app(worker=worker()))
    board.device.start_dockerd()
    board.shell("cd /var/sota/compose-apps/cut-off && docker compose create")
    before = set(board.lives())
    assert board.states() == {"cut-off-worker-1": "created"}
    board.start_well()
    assert board.states() == {"cut-off-worker-1": "running"}
    assert set(board.lives()) == before


def test_a_recreation_that_was_cut_off_is_completed(board: Board) -> None:
    board.preload("cut-off", app(worker=worker()))
    board.device.start_dockerd()
    board.start_well()
    board.shell("docker kill cut-off-worker-1; docker rename cut-off-worker-1 0a1b2c3d_cut-off")
    board.start_well()
    assert list(board.states().values()) == ["running"]


class TestWhatIsLeftAlone:
    """A container that ever ran is never replaced, whatever is wrong beside it."""

    def test_one_missing_device_costs_the_other_service_nothing(self, board: Board) -> None:
        modem = worker(devices=["/dev/ttyUSB9:/dev/ttyUSB9"], restart="always")
        board.preload("logger", app(db=worker(restart="always"), modem=modem))
        board.device.start_dockerd()
        board.shell("mknod /dev/ttyUSB9 c 1 3")
        board.start_well()
        board.shell("docker exec logger-db-1 sh -c 'echo week >/written'")
        ids = set(board.lives())
        board.device.stop_dockerd()
        board.shell("rm /dev/ttyUSB9; rm -r /run/compose-apps-early-start")
        board.device.start_dockerd()
        run = board.start(env=limits(settle=0.5, app=6))
        assert run.causes == {"logger": "device-missing"}
        assert "/dev/ttyUSB9" in run.app("logger")["message"]
        assert set(board.lives()) == ids
        assert board.shell("docker exec logger-db-1 cat /written") == "week\n"

    def test_a_container_that_is_no_longer_in_the_compose_file_stays(self, board: Board) -> None:
        board.preload("app", app(old=worker(), worker=worker()))
        board.device.start_dockerd()
        board.start_well()
        before = board.lives()
        board.preload("app", app(worker=worker()))
        board.start_well()
        assert board.lives() == before

    def test_a_paused_container_is_told_and_not_touched(self, board: Board) -> None:
        board.preload_sample("shop", "debug-tools")
        board.device.start_dockerd()
        board.start_well()
        before = board.lives()
        board.shell("docker pause shop-web-1")
        board.record_compose_calls()
        run = board.start()
        assert run.causes == {"debug-tools": None, "shop": "container-paused"}
        assert board.compose_calls() == []
        assert board.lives() == before
        assert board.states()["shop-web-1"] == "paused"

    def test_words_that_nobody_knows_are_waited_for(self, board: Board) -> None:
        keep = app(DATA, worker=worker(volumes=["data:/data"]))
        board.preload("db", keep)
        board.device.start_dockerd()
        board.start_well()
        board.shell("docker exec db-worker-1 sh -c 'echo precious >/data/keep'")
        before = board.lives()
        keep["services"]["other"] = worker(cpus=64)
        board.preload("db", keep)
        board.record_compose_calls()
        run = board.start(env=limits(settle=0.2, app=5))
        assert run.causes == {"db": "compose-failed"}
        assert "CPUs" in run.app("db")["message"]
        calls = {call for call in board.compose_calls() if "config" not in call}
        assert calls == {"db up -d --pull never --no-build"}
        assert len(board.compose_calls()) > 2
        assert {key: board.lives().get(key) for key in before} == before
        # The way back is as good as ever.
        del keep["services"]["other"]
        board.preload("db", keep)
        board.start_well()
        assert board.shell("docker exec db-worker-1 cat /data/keep") == "precious\n"


class TestCapitalsInAProjectName:
    """Compose lower-cases a project's name, wherever it comes from."""

    def test_two_apps_of_one_project_do_not_share_it(self, board: Board) -> None:
        board.preload("shop", app(worker=worker()))
        board.preload("kiosk", app({"name": "Shop"}, other=worker()))
        board.device.start_dockerd()
        board.record_compose_calls()
        run = board.start()
        assert run.causes == {"kiosk": "app-folder-invalid", "shop": None}
        assert not [call for call in board.compose_calls() if call.startswith("kiosk ")]
        assert board.states() == {"shop-worker-1": "running"}

    @pytest.mark.parametrize(
        ("top", "files"),
        [
            ({"name": "PlantMon"}, {}),
            ({}, {".env": "\ufeffCOMPOSE_PROJECT_NAME=plantmon\n"}),
        ],
        ids=["name", "env"],
    )
    def test_a_foreign_project_keeps_its_containers(
        self, board: Board, top: Content, files: dict[str, str]
    ) -> None:
        board.preload("monitor", app(top, worker=worker()), files)
        board.device.start_dockerd()
        labels = {
            "com.docker.compose.project": "plantmon",
            "com.docker.compose.project.working_dir": "/srv/plantmon",
            "com.docker.compose.service": "worker",
        }
        board.foreign_container("lodger", labels)
        before = board.lives()
        run = board.start()
        assert run.causes == {"monitor": "project-taken"}
        assert board.lives() == before


class TestAVerdictThatKeeps:
    """What gives up again and again does not run, however it looks at the moment."""

    def test_a_service_that_gives_up_after_some_seconds_does_not_run(self, board: Board) -> None:
        quitter = shell("sleep 3; echo no cloud; exit 1", restart="always")
        board.preload("cloud", app(worker=quitter))
        board.device.start_dockerd()
        for _ in range(2):
            run = board.start(env=limits(settle=4, app=9))
            assert run.causes == {"cloud": "crash-loop"}
            assert run.app("cloud")["message"].endswith(": no cloud")

    def test_a_replica_that_is_lost_is_brought_back(self, board: Board) -> None:
        board.preload("pair", app(worker=worker(deploy={"replicas": 2})))
        board.device.start_dockerd()
        board.start_well()
        lost = board.api.inspect_container("pair-worker-2")["Id"]
        board.shell("docker rm -f pair-worker-2")
        assert lost not in board.lives()
        board.start_well()
        assert sorted(board.states()) == ["pair-worker-1", "pair-worker-2"]

    def test_an_app_that_falls_while_others_come_up_is_told(self, board: Board) -> None:
        once = shell("test -e /once && exit 9; touch /once; sleep 3; exit 9")
        board.preload("falls", app(worker=once))
        board.preload("slow", app(worker=worker(**health("false", start_period="1h"))))
        board.device.start_dockerd()
        run = board.start(env=limits(settle=1, app=9))
        assert "falls: runs" in run.stderr
        assert run.causes == {"falls": "exited", "slow": None}

    def test_a_container_killed_for_memory_says_so(self, board: Board) -> None:
        board.preload("greedy", app(worker=shell("tail /dev/zero", mem_limit="16m")))
        board.device.start_dockerd()
        run = board.start(env=limits(settle=1, app=5))
        assert run.causes == {"greedy": "exited"}
        assert "killed for lack of memory" in run.app("greedy")["message"]
