"""Programs in other languages than Python, as far as their grammars are installed."""

from __future__ import annotations

import re

import pytest

from ainet.passages import grammars
from ainet.passages.parse import parse

JAVASCRIPT = """import { tax } from './tax.js';

/**
 * A cart of goods.
 */
export class Cart extends Basket {
  constructor(owner) { this.owner = owner; }
  total() { return tax(this.sum()); }
}

// Adds them up.
const sum = (items) => items.reduce(add, 0);

function add(a, b) { return a + b; }

add(1, 2);
"""
TYPESCRIPT = """interface Shape { area(): number }
namespace Shapes {
  export class Square implements Shape {
    area(): number { return square(this.side); }
  }
}
export const square = (x: number): number => x * x;
"""
JAVA = """package shop;

/** Sells. */
public class Shop extends Place implements Open {
    @Override
    public int sell(int n) { return stock.take(n) + count(); }
    Shop() { super(); }
    enum Kind { BIG, SMALL }
}
"""
GO = """package main

// Greet says hello.
func (p *Person) Greet(name string) string { return format(name) }

func format(name string) string { return strings.ToUpper(name) }

type Person struct { Name string }
"""
RUST = """/// A point.
#[derive(Debug)]
pub struct Point { x: i32 }

impl Point {
    pub fn length(&self) -> f64 { norm(self.x) }
}

fn norm(x: i32) -> f64 { println!("{}", x); x.abs() as f64 }
"""
C = """#include <stdio.h>

/* Adds. */
static int *add_all(int a, int b) { return sum(a, b); }

struct point { int x; };
"""
CPP = """namespace geo {
class Box : public Shape {
 public:
  double area() const { return width() * 2; }
};
}
double geo::Circle::area() { return pi(); }
"""
RUBY = """module Shop
  class Cart < Basket
    # The total.
    def total
      sum(items) + items.size
    end
  end
end
"""
CSHARP = """namespace Shop {
  public class Cart : Basket {
    public int Total() { return Sum(Items.Count()); }
  }
}
"""
BASH = """#!/bin/bash
# Says hello.
greet() {
  echo hello
}
greet
"""
JULIA = """module Shop
function total(prices)
    sum(prices)
end
vat(x) = 0.19x
end
"""
PHP = """<?php
class Cart extends Basket {
    function total() { return sum($this->items()); }
}
"""
SCALA = """object Shop {
  def total(prices: List[Int]): Int = sum(prices)
}
class Cart extends Basket
"""


def known(path, text):
    """The definitions in a program, with their kinds and lines, and what is called in each."""
    found = parse(path, text.encode())
    # Nothing is lost, or twice.
    words = [re.findall(r"\b(?!end\b)\w+", said) for said in ("\n".join(one.text for one in found), text)]
    assert words[0] == words[1]
    return {
        one.name: (one.kind, one.first_line, one.last_line, {f"{each.kind} {each.target}" for each in one.relations})
        for one in found
        if one.name
    }


@pytest.mark.parametrize(
    ("path", "text", "names"),
    [
        ("cart.js", JAVASCRIPT, {"Cart", "Cart.constructor", "Cart.total", "sum", "add"}),
        ("shapes.ts", TYPESCRIPT, {"Shape", "Shapes", "Shapes.Square", "Shapes.Square.area", "square"}),
        ("Shop.java", JAVA, {"Shop", "Shop.sell", "Shop.Shop", "Shop.Kind"}),
        ("main.go", GO, {"Person.Greet", "format", "Person"}),
        ("point.rs", RUST, {"Point", "Point.length", "norm"}),
        ("add.c", C, {"add_all", "point"}),
        ("box.cpp", CPP, {"geo", "geo.Box", "geo.Box.area", "area"}),
        ("cart.rb", RUBY, {"Shop", "Shop.Cart", "Shop.Cart.total"}),
        ("Cart.cs", CSHARP, {"Shop", "Shop.Cart", "Shop.Cart.Total"}),
        ("greet.sh", BASH, {"greet"}),
        ("shop.jl", JULIA, {"Shop", "Shop.total", "Shop.vat"}),
        ("cart.php", PHP, {"Cart", "Cart.total"}),
        ("shop.scala", SCALA, {"Shop", "Shop.total", "Cart"}),
    ],
)
def test_functions_and_classes_are_found_in_each_language(path, text, names):
    assert set(known(path, text)) == names


def test_passages_know_their_lines_comments_and_relations():
    found = known("cart.js", JAVASCRIPT)
    assert found["Cart"][1:3] == (3, 6)
    assert found["Cart"][3] == {"inherits Basket"}
    assert found["Cart.total"] == ("function", 8, 8, {"calls tax", "calls ?.sum"})
    assert found["sum"] == ("function", 11, 12, {"calls ?.reduce"})
    assert found["add"][0] == "function"
    (last,) = [one for one in parse("cart.js", JAVASCRIPT.encode()) if one.text == "add(1, 2);"]
    assert [f"{one.kind} {one.target}" for one in last.relations] == ["calls :add"]
    java = known("Shop.java", JAVA)
    assert java["Shop.sell"] == ("function", 5, 6, {"calls ?.take", "calls count"})
    assert java["Shop"][3] == {"inherits Place", "inherits Open"}
    assert known("main.go", GO)["Person.Greet"][3] == {"calls :format"}
    assert known("point.rs", RUST)["norm"][3] == {"calls println", "calls ?.abs"}
    assert known("cart.rb", RUBY)["Shop.Cart"][3] == {"inherits Basket"}


@pytest.mark.parametrize("text", ["", "}}}} class {{{", "function (", "\0", "class A { " * 3000, "f(" * 5000, "é" * 10])
def test_what_is_no_program_is_text(text):
    if "\0" not in text:
        parse("odd.js", text.encode())
        parse("odd.cpp", text.encode())


def test_without_a_grammar_it_is_text_and_is_read_again_once_there_is_one(monkeypatch):
    assert grammars.parser_of("a.js", "1") == "1 tree"
    assert grammars.parser_of("a.py", "1") == "1"
    grammars.has_grammar.cache_clear()
    grammars.language.cache_clear()
    monkeypatch.setattr(grammars.importlib.util, "find_spec", lambda _: None)
    assert grammars.parser_of("a.js", "1") == "1"
    assert {one.kind for one in parse("cart.js", JAVASCRIPT.encode())} == {"text"}
    grammars.has_grammar.cache_clear()
    grammars.language.cache_clear()
