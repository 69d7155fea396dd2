import ray
def test_a(ray_cluster):
    @ray.remote
    def f(): return 1
    assert ray.get(f.remote()) == 1
    assert sorted(r["id"] for r in ray.data.range(4).map_batches(lambda b: b, batch_format="numpy").take_all()) == [0,1,2,3]
