"""What a page looks like, judged by tools: contrast and names by axe-core, collisions by boxes."""

from __future__ import annotations

# Visible words and controls whose boxes overlap though neither holds the other, and those that stick
# out of the window. What scrolls inside a box of its own is left out.
COLLISIONS = """() => {
  const wide = innerWidth, said = [];
  const shown = e => e.checkVisibility({opacityProperty: true, visibilityProperty: true});
  const words = [...document.querySelectorAll('body *')].filter(e => shown(e) && !e.closest(
    '.scroll, .q-field, .q-notification, .q-menu, .q-tooltip, svg, canvas, [aria-hidden=true], .q-icon')
    && (e.matches('button, [role=tab], a') || [...e.childNodes].some(n => n.nodeType === 3 &&
    n.textContent.trim())));
  const boxes = words.map(e => [e, e.getBoundingClientRect()]).filter(
    ([, b]) => b.width > 1 && b.height > 1);
  const name = e => (e.getAttribute('aria-label') || e.innerText || e.className).slice(0, 40);
  for (const [e, b] of boxes)
    if (b.left < -1 || b.right > wide + 1) said.push(`${name(e)} sticks out of the window`);
  const bar = e => e.closest('header') !== null;
  for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
    const [a, p] = boxes[i], [c, q] = boxes[j];
    if (a.contains(c) || c.contains(a) || bar(a) !== bar(c)) continue;
    const x = Math.min(p.right, q.right) - Math.max(p.left, q.left);
    const y = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
    if (x > 2 && y > 2) said.push(`${name(a)} collides with ${name(c)}`);
  }
  if (document.documentElement.scrollWidth > wide) said.push('the page scrolls sideways');
  return said;
}"""


def faults(page) -> list[str]:
    """What axe-core finds wrong, WCAG's AA with its 4.5:1 among it, and what collides."""
    from axe_playwright_python.sync_playwright import Axe

    page.wait_for_timeout(400)  # what fades in has its colours
    options = {
        "runOnly": ["wcag2a", "wcag2aa", "wcag21aa"],
        "resultTypes": ["violations"],
    }
    ours = {"include": [["body"]], "exclude": [[".q-loading-bar"]]}
    found = Axe().run(page, context=ours, options=options).response["violations"]
    said = [
        f"{one['id']}: {node['html'][:120]} {node['failureSummary'].splitlines()[-1][:160]}"
        for one in found
        for node in one["nodes"]
    ]
    return said + page.evaluate(COLLISIONS)


def in_sight(page, locator) -> bool:
    """Whether all of an element stands in the window, so that nobody has to scroll for it."""
    box, size = locator.bounding_box(), page.viewport_size
    return (
        box is not None and box["x"] >= 0 and box["y"] >= 0
        and box["x"] + box["width"] <= size["width"] + 1
        and box["y"] + box["height"] <= size["height"] + 1
    )  # fmt: skip
