"""Using a page with the keyboard alone."""

FOCUSED = """() => {
    const e = document.activeElement;
    return e && e !== document.body ? e.cloneNode().outerHTML : null;
}"""
HAS_FOCUS = "e => e === document.activeElement"


def press_when_loaded(page, key):
    """Press a key that the page's script handles, which a visible page may yet lack."""
    page.wait_for_load_state()
    page.keyboard.press(key)


def press_until_focused(page, selector, key="Tab", most=100):
    """
    Press ``key`` until the element has the focus, and return what had it meanwhile.

    Returns the opening tags of the focused elements in order, the wanted one last.
    """
    target = page.locator(selector)
    focused = []
    while len(focused) < most:
        page.keyboard.press(key)
        focused.append(page.evaluate(FOCUSED))
        if target.evaluate(HAS_FOCUS):
            return focused
    steps = "\n".join(map(str, focused))
    raise AssertionError(f"{most} times {key} did not focus {selector}:\n{steps}")
