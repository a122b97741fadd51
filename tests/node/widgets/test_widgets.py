from ainet_widgets.placement import PlacementBar

from ainet.api.generate import PlacedStage

STAGES = [
    PlacedStage("laptop", 1, 0, 9),
    PlacedStage("<b>desk</b>", 2, 10, 29),
]


def test_the_bar_shows_each_device_and_its_layers():
    html = PlacementBar(STAGES)._repr_html_()
    assert "flex:10" in html
    assert "flex:20" in html
    assert "laptop 0–9" in html
    assert html.count("background:#") == 2


def test_names_of_other_devices_cannot_inject_html():
    assert "<b>" not in PlacementBar(STAGES)._repr_html_()


def test_text_says_the_same():
    assert repr(PlacementBar(STAGES)) == "laptop 0–9 → <b>desk</b> 10–29"
