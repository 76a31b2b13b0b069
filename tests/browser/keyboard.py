"""A page without a mouse."""

FOCUSED = """() => {
    const e = document.activeElement;
    return e && e !== document.body ? e.cloneNode().outerHTML : null;
}"""
HAS_FOCUS = "e => e === document.activeElement"


def press_until_focused(page, selector, key="Tab", most=100):
    """
    Press ``key`` until the element has the focus; return what had it on the way.

    The way is the opening tags in order, and ends with the element's own.
    """
    wanted = page.locator(selector)
    way = []
    while len(way) < most:
        page.keyboard.press(key)
        way.append(page.evaluate(FOCUSED))
        if wanted.evaluate(HAS_FOCUS):
            return way
    steps = "\n".join(map(str, way))
    raise AssertionError(f"{most} times {key} did not lead to {selector}:\n{steps}")
