// The layout of the DAG: layers from left to right, with long edges around the boxes between their ends.

const ROW_GAP = 14;
const LANE = 10; // height that an edge needs where it passes through a layer
const LAYER_GAP = 30;
const HEIGHT = 44;
const MARGIN = 4;
const SWEEPS = 9;

/**
 * Places nodes and edges. `nodes`: [{node, needs, width}]. Returns {width, height, nodes: Map(node → {x, y,
 * width, height}), edges: [{from, to, path}]}. Edges that other paths imply are left out.
 */
export function layout(nodes) {
  const items = new Map(nodes.map((one) => [one.node, { ...one, height: HEIGHT, from: [], to: [] }]));
  const needs = new Map(nodes.map((one) => [one.node, one.needs.filter((other) => items.has(other))]));
  const layerOf = new Map();
  for (const one of nodes) rank(one.node, needs, layerOf);
  const layers = Array.from({ length: Math.max(0, ...layerOf.values()) + 1 }, () => []);
  for (const one of nodes) layers[layerOf.get(one.node)].push(items.get(one.node));
  const edges = direct(needs).map(([from, to]) => ({
    from,
    to,
    way: lead(items.get(from), items.get(to), layers, layerOf),
  }));
  arrange(layers);
  const width = placeColumns(layers);
  const height = placeRows(layers);
  return {
    width,
    height,
    nodes: new Map(
      [...items].map(([node, { x, y, width: wide }]) => [
        node,
        { x, y: y - HEIGHT / 2, width: wide, height: HEIGHT },
      ]),
    ),
    edges: edges.map(({ from, to, way }) => ({ from, to, path: path(way) })),
  };
}

function rank(node, needs, layerOf) {
  if (!layerOf.has(node)) {
    layerOf.set(node, 0); // ends a cycle, although a DAG has none
    layerOf.set(node, Math.max(-1, ...needs.get(node).map((other) => rank(other, needs, layerOf))) + 1);
  }
  return layerOf.get(node);
}

/** The edges, without those that another path implies. */
function direct(needs) {
  const above = new Map();
  const ancestors = (node) => {
    if (!above.has(node)) {
      above.set(node, new Set());
      above.set(node, new Set(needs.get(node).flatMap((other) => [other, ...ancestors(other)])));
    }
    return above.get(node);
  };
  const found = [];
  for (const [node, before] of needs) {
    for (const one of before) {
      if (!before.some((other) => other !== one && ancestors(other).has(one))) found.push([one, node]);
    }
  }
  return found;
}

/** The items on an edge's way, including a lane in each layer between its ends. */
function lead(from, to, layers, layerOf) {
  const way = [from];
  for (let layer = layerOf.get(from.node) + 1; layer < layerOf.get(to.node); layer += 1) {
    const lane = { height: LANE, width: 0, from: [], to: [] };
    layers[layer].push(lane);
    way.push(lane);
  }
  way.push(to);
  for (let i = 1; i < way.length; i += 1) {
    way[i - 1].to.push(way[i]);
    way[i].from.push(way[i - 1]);
  }
  return way;
}

/** Order each layer, with each item near the middle of its neighbours, so that few edges cross. */
function arrange(layers) {
  const number = () => layers.forEach((layer) => layer.forEach((item, i) => (item.order = i)));
  number();
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    const down = sweep % 2 === 0;
    for (const layer of down ? layers : [...layers].reverse()) {
      const middle = new Map(
        layer.map((item) => [
          item,
          mean(
            (down ? item.from : item.to).map((o) => o.order),
            item.order,
          ),
        ]),
      );
      layer.sort((a, b) => middle.get(a) - middle.get(b) || a.order - b.order);
      layer.forEach((item, i) => (item.order = i));
    }
  }
}

function placeColumns(layers) {
  let x = MARGIN;
  for (const layer of layers) {
    const width = Math.max(0, ...layer.map((item) => item.width));
    for (const item of layer) Object.assign(item, { x, width });
    x += width + LAYER_GAP;
  }
  return x - LAYER_GAP + MARGIN;
}

/** Set the y of each item near that of its neighbours, as far as the items above and below leave room. */
function placeRows(layers) {
  for (const layer of layers) {
    let y = 0;
    for (const item of layer) {
      item.y = y + item.height / 2;
      y += item.height + ROW_GAP;
    }
    for (const item of layer) item.y -= (y - ROW_GAP) / 2;
  }
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    const down = sweep % 2 === 0; // the last sweep is, so that chains run straight from their beginning
    for (const layer of down ? layers : [...layers].reverse()) {
      for (const item of layer) {
        const near = down ? item.from : item.to;
        item.wanted = mean(
          near.map((other) => other.y),
          item.y,
        );
      }
      settle(layer);
    }
  }
  const all = layers.flat();
  const top = Math.min(...all.map((item) => item.y - item.height / 2)) - MARGIN;
  for (const item of all) item.y = Math.round((item.y - top) * 2) / 2;
  return Math.max(...all.map((item) => item.y + item.height / 2)) + MARGIN;
}

/** Push overlapping items apart, once downwards and once upwards, and take the mean of both. */
function settle(layer) {
  const apart = (a, b) => (a.height + b.height) / 2 + ROW_GAP;
  const down = [];
  layer.forEach((item, i) =>
    down.push(i ? Math.max(item.wanted, down[i - 1] + apart(layer[i - 1], item)) : item.wanted),
  );
  const up = [];
  for (let i = layer.length - 1; i >= 0; i -= 1) {
    up[i] =
      i < layer.length - 1
        ? Math.min(layer[i].wanted, up[i + 1] - apart(layer[i], layer[i + 1]))
        : layer[i].wanted;
  }
  layer.forEach((item, i) => (item.y = (down[i] + up[i]) / 2));
}

function path(way) {
  let text = "";
  for (let i = 1; i < way.length; i += 1) {
    const [x0, y0] = [way[i - 1].x + way[i - 1].width, way[i - 1].y];
    const [x1, y1] = [way[i].x, way[i].y];
    const bend = (x1 - x0) / 2;
    text += `${i === 1 ? `M${x0} ${y0}` : `L${x0} ${y0}`}C${x0 + bend} ${y0} ${x1 - bend} ${y1} ${x1} ${y1}`;
  }
  return text;
}

function mean(values, otherwise) {
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : otherwise;
}
