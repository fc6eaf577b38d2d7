"""Texts for test_declarations.py, by what is special about them. They know `struct P` and a kernel template `t`."""

# Legal at namespace scope, in front of kernels, all in one file.
LEGAL = {
    "struct return": "static inline struct P make1(float a) { return {a, 1}; }",
    "enum return": "enum E { A, B };\nstatic enum E make2(float a) { return a > 0 ? A : B; }",
    "union return": "union U { float f; uint u; };\nstatic inline union U make3(float a) { U u; u.f = a; return u; }",
    "class return": "class C { public: float x; };\nstatic class C make4(float a) { C c; c.x = a; return c; }",
    "qualified struct": "namespace n1 { struct P { float x; }; }\nstatic struct n1::P make5(float a) { return {a}; }",
    "template struct return": (
        "template <typename T> struct T1 { T x; };\nstatic struct T1<float> make6(float a) { return {a}; }"
    ),
    "template function struct return": (
        "template <typename T> struct T2 { T x; };\n"
        "template <typename T> static struct T2<T> make7(T a) { return {a}; }"
    ),
    "const struct return": "static const struct P make8(float a) { return {a, 1}; }",
    "pointer to struct": "static thread struct P* id1(thread struct P* p) { return p; }",
    "reference to struct": "static thread struct P& id2(thread struct P& p) { return p; }",
    "struct parameter": "static float get(struct P p, const thread struct P& q) { return p.x + q.x; }",
    "trailing return": "static auto make9(float a) -> struct P { return {a, 1}; }",
    "trailing plain": "static auto make10(float a) -> P { return {a, 1}; }",
    "trailing decltype": "template <typename T> static auto make11(T a) -> decltype(a + 1) { return a + 1; }",
    "operator": "static struct P operator+(struct P a, struct P b) { return {a.x + b.x, a.y + b.y}; }",
    "operator ==": "static bool operator==(struct P a, struct P b) { return a.x == b.x; }",
    "operator <": "static bool operator<(struct P a, struct P b) { return a.x < b.x; }",
    "constructor": "struct Q5 { float p; int q; Q5(float a); };\ninline Q5::Q5(float a) : p(a), q{1} {}",
    "constructor braces first": "struct Q6 { float p; int q; Q6(float a); };\ninline Q6::Q6(float a) : p{a}, q(1) {}",
    "constructor in class": "struct Q7 { float p = 1; int q{2}; Q7(float a) : p(a), q{1} {} Q7() = default; };",
    "destructor": "struct Q8 { ~Q8(); };\ninline Q8::~Q8() {}",
    "default members": "struct Q9 { float x = 1; int y = {2}; float z[2] = {1, 2}; };",
    "braced variable": "constant int v1{3};",
    "braced variables": "constant int v2{3}, v3{4};",
    "braced array": "constant float v4[2]{1, 2};",
    "array": "constant float v5[] = {1, 2};",
    "struct variable": "constant struct P v7 = {1, 2};",
    "struct braced": "constant struct P v9{1, 2};",
    "struct defined with variable": "constant struct S1 { float x; } v10 = {1};",
    "unnamed struct": "constant struct { float x; } v11 = {1};",
    "typedef struct": "typedef struct { float x; } S2;",
    "typedef named": "typedef struct S3 { float x; } S3_t, S3_u;",
    "enum class": "enum class E2 : ushort { A = 1, B = A << 2 };",
    "enum unnamed": "enum { X3 = 3, X4 };",
    "forward": "struct S4; class S5; union S6; enum E5 : int;",
    "derived": "struct B1 { float x; };\nstruct D1 : B1 { float y; };\nstruct D2 : public B1 {};",
    "final": "struct S7 final { float x; };",
    "aligned struct": "struct alignas(16) S8 { float x; };\nstatic struct S8 make12(float a) { return {a}; }",
    "attributed struct": (
        "struct __attribute__((packed)) S9 { float x; };\n"
        "struct [[maybe_unused]] S10 { float x; };\n"
        "static struct S9 make13(float a) { return {a}; }"
    ),
    "specialisation": (
        "template <typename T> struct T3 { T x; };\n"
        "template <> struct T3<int> { int y; };\n"
        "template <typename T> struct T3<thread T*> { int z; };"
    ),
    "function specialisation": (
        "template <typename T> T one() { return T(1); }\n"
        "template <> int one<int>() { return 1; }\n"
        "template <> inline uint one() { return 1u; }"
    ),
    "variable template": "template <typename T> constant constexpr T v12 = T(1);",
    "alias": "using A1 = struct { float x; };\ntemplate <typename T> using A2 = T;\nusing A3 = float (*)(float);",
    "static_assert": ('static_assert(sizeof(float) == 4, "{");\nstatic_assert(true);'),
    "extern C block": 'extern "C" { static float c1(float a) { return a; } }',
    "extern C": 'extern "C" float c2(float a) { return a; }',
    "namespace": "namespace n2 { struct P { float x; }; static struct P make(float a) { return {a}; } }",
    "nested namespace": "namespace n3::n4 { static float g(float a) { return a; } }",
    "attributed namespace": "namespace [[maybe_unused]] n5 { static float g(float a) { return a; } }",
    "alias namespace": (
        "namespace n6 { static float g(float a) { return a; } }\nnamespace n7 = n6;\nusing namespace n6;\nusing n6::g;"
    ),
    "unnamed namespace": "namespace { float g2(float a) { return a; } }",
    "inline namespace": "inline namespace n8 { static float g3(float a) { return a; } }",
    "template default": "template <typename T, int N = sizeof(T) < 4 ? 1 : 2> static T h1(T a) { return a + N; }",
    "template default comparison": (
        "template <int M, int N = (M < 4) ? 1 : 2> static float h2(float a) { return a + N; }"
    ),
    "template enable": (
        "template <typename T, typename = enable_if_t<is_same_v<T, float> && (sizeof(T) > 2)>> "
        "static T h3(T a) { return a; }"
    ),
    "template template": "template <template <typename> class C, typename T> static T h4(C<T> c) { return c.x; }",
    "template pack": "template <typename... A> static float h5(A... a) { return sizeof...(a); }",
    "template struct parameter": "template <class T, typename U = struct P> static float h6(float a) { return a; }",
    "default argument": "static float h7(float a = 1, int b = {2}) { return a + b; }",
    "default argument struct": "static float h8(struct P p = {1, 2}) { return p.x; }",
    "function constant": (
        "constant bool fc1 [[function_constant(0)]];\n"
        "constant bool fc2 = is_function_constant_defined(fc1) ? fc1 : true;"
    ),
    "attribute": "[[maybe_unused]] static float h9(float a) { return a; }",
    "attribute after name": "static float h10 [[maybe_unused]] (float a) { return a; }",
    "gnu attribute": (
        "__attribute__((always_inline)) static float h11(float a) { return a; }\n"
        "static float h12(float a) __attribute__((noinline)) { return a; }"
    ),
    "gnu attribute struct": "__attribute__((always_inline)) static struct P h13(float a) { return {a, 1}; }",
    "noexcept": (
        "static float h14(float a) noexcept { return a; }\nstatic float h15(float a) noexcept(true) { return a; }"
    ),
    "function pointer": "typedef float (*fp1)(float);\nstatic float h16(float a, float (*f)(float)) { return a; }",
    "prototype": "float h17(float a);\nstruct P;\nstruct P h18(float a);",
    "constexpr": "constexpr struct P h19(float a) { return {a, 1}; }",
    "decltype": "static decltype(1.0f) h20(float a) { return a; }",
    "array parameter": "static float h21(thread struct P (&p)[2]) { return p[0].x; }",
    "stray semicolons": "struct S11 {};;\nstatic float h22(float a) { return a; };",
    "friend": "struct S12 { float x; friend struct P; };",
    "member function outside": (
        "struct S13 { struct P get(float a); };\nstruct P S13::get(float a) { return {a, 1}; }"
    ),
    "template member outside": (
        "template <typename T> struct S14 { struct P get(T a); };\n"
        "template <typename T> struct P S14<T>::get(T a) { return {a, 1}; }"
    ),
    "nested struct return": (
        "struct S16 { struct In { float x; }; };\nstatic struct S16::In h23(float a) { return {a}; }"
    ),
    "struct in body": "static float h26(float a) { struct L { float x; } l = {a}; return l.x; }",
    "enum struct": "enum struct E6 { A };",
    "enum return class": "enum class E7 : uint { A };\nstatic enum E7 h27(float a) { return E7::A; }",
    "digit separators": "constant int v13 = 1'000'000;",
    "characters": "constant char v14 = '{', v15 = '\\'';",
    "strings": 'constant auto v16 = sizeof("{\\"");',
}
# Legal, too, but clang compiles no such members as they stand.
ALONE = {
    "operator =": (
        "struct Q { float x; thread Q& operator=(float a); };\nthread Q& Q::operator=(float a) { x = a; return *this; }"
    ),
    "operator ()": (
        "struct Q2 { float x; float operator()(float a) const; };\n"
        "inline float Q2::operator()(float a) const { return x + a; }"
    ),
    "operator []": (
        "struct Q3 { float x[2]; float operator[](int a) const; };\n"
        "inline float Q3::operator[](int a) const { return x[a]; }"
    ),
    "static member": "struct S15 { static constant int n; };\nconstant int S15::n = 3;",
}

# Kernels, and their names for the host.
FORMS = {
    "word": ("kernel void f(device float* x) { x[0] = 7; }", "f"),
    "attribute": ("[[kernel]] void f(device float* x) { x[0] = 7; }", "f"),
    "attributes": (
        '[[kernel, max_total_threads_per_threadgroup(32), host_name("g")]] void f(device float* x) { x[0] = 7; }',
        "g",
    ),
    "attributes apart": ('[[host_name("g")]] [[kernel]] void f(device float* x) { x[0] = 7; }', "g"),
    "name and word": ('[[host_name("g")]] kernel void f(device float* x) { x[0] = 7; }', "g"),
    "word and name": ('kernel [[host_name("g")]] void f(device float* x) { x[0] = 7; }', "g"),
    "after its name": ('void f [[kernel, host_name("g")]] (device float* x) { x[0] = 7; }', "g"),
    "after its parameters": ("void f(device float* x) [[kernel]] { x[0] = 7; }", "f"),
    "after its type": ("void kernel f(device float* x) { x[0] = 7; }", "f"),
    "trailing return type": ("kernel auto f(device float* x) -> void { x[0] = 7; }", "f"),
    "noexcept": ("kernel void f(device float* x) noexcept { x[0] = 7; }", "f"),
    "compiler's attribute": ("__attribute__((noinline)) kernel void f(device float* x) { x[0] = 7; }", "f"),
    "static": ("static kernel void f(device float* x) { x[0] = 7; }", "f"),
    "extern C": ('extern "C" kernel void f(device float* x) { x[0] = 7; }', "f"),
    "extern C block": ('extern "C" { kernel void f(device float* x) { x[0] = 7; } }', "f"),
    "struct parameters": (
        "kernel void f(device float* x, constant struct P& p, device struct P* q) { x[0] = 7; }",
        "f",
    ),
    "struct in its body": ("kernel void f(device float* x) { struct S { float y; } s{7}; x[0] = s.y; }", "f"),
    "namespace": ("namespace a { kernel void f(device float* x) { x[0] = 7; } }", "a::f"),
    "namespaces": ("namespace a::b { kernel void f(device float* x) { x[0] = 7; } }", "a::b::f"),
    "inline namespace": ("inline namespace v1 { kernel void f(device float* x) { x[0] = 7; } }", "f"),
    "nested inline namespace": ("namespace a::inline v1 { kernel void f(device float* x) { x[0] = 7; } }", "a::f"),
    "unnamed namespace": ("namespace { kernel void f(device float* x) { x[0] = 7; } }", "f"),
    "namespace with an attribute": (
        'namespace [[deprecated("x")]] a { kernel void f(device float* x) { x[0] = 7; } }',
        "a::f",
    ),
    "namespace with a compiler's": (
        'namespace __attribute__((visibility("default"))) a { kernel void f(device float* x) { x[0] = 7; } }',
        "a::f",
    ),
    "one line": ("struct Q { float x; }; kernel void f() {} kernel void g() {}", "f g"),
    "stray semicolons": (";kernel void f() {};;", "f"),
    "behind rendering": (
        "vertex struct P v(uint i [[vertex_id]]) { return {}; }\n"
        "fragment struct P w() { return {}; }\n"
        "kernel void f() {}",
        "f",
    ),
    "template": ("", ""),
    "instantiation": ('template [[host_name("h")]] kernel decltype(t<float>) t<float>;', "h"),
    "instantiation by attribute": ('template [[host_name("h")]] [[kernel]] decltype(t<float>) t<float>;', "h"),
    "instantiation by signature": ('template [[host_name("h")]] kernel void t<float>(device float* x);', "h"),
    "deduced instantiation": ('template [[host_name("h")]] kernel void t(device float* x);', "h"),
    "instantiation without a name": ("template kernel void t<float>(device float* x);", "t"),
    "instantiation of a global name": ('template [[host_name("h")]] kernel void ::t<float>(device float* x);', "h"),
    "instantiation in a namespace": (
        "namespace a { template <typename T> kernel void u(device T* x) { x[0] = 7; } }\n"
        'template [[host_name("h")]] kernel decltype(a::u<float>) a::u<float>;',
        "h",
    ),
    "instantiation through an alias": (
        "namespace a { template <typename T> kernel void u(device T* x) { x[0] = 7; } }\nnamespace b = a;\n"
        'template [[host_name("h")]] kernel decltype(b::u<float>) b::u<float>;',
        "h",
    ),
    "instantiation beside a function of its name": (
        "namespace a { template <typename T> void t(thread T* x) {} }\nusing namespace a;\n"
        'template [[host_name("h")]] kernel void t(device float* x);',
        "h",
    ),
    "half deduced instantiation": (
        "template <typename T, typename U, bool b, int N = 2>\n"
        "kernel void u(device U* x, constant T (*y)[N]) { x[0] = b ? N : 0; }\n"
        'template [[host_name("h")]] kernel void u<half, float, true>(device float*, constant half (*)[7]);',
        "h",
    ),
    "deduced instantiation with values": (
        "template <typename T, bool b, P* p = nullptr> struct S { T x; };\n"
        "enum class E : uint { A, B = 7 };\ntemplate <E e> struct V {};\n"
        "template <typename T, bool b, E e>\n"
        "kernel void u(device T* x, constant S<T, b>* y, constant V<e>* z) { x[0] = b ? T(e) : T(0); }\n"
        'template [[host_name("h")]] kernel void u(device float* x, constant S<float, true>*, constant V<E::B>*);',
        "h",
    ),
    "deduced instantiation with another name of the type": (
        'using real = float;\ntemplate [[host_name("h")]] kernel void t(device real* x);',
        "h",
    ),
    "instantiation, inline namespace": (
        "inline namespace v { template <typename T> kernel void u(device T* x) { x[0] = 7; } }\n"
        'template [[host_name("h")]] kernel decltype(u<float>) u<float>;',
        "h",
    ),
    "instantiation declared": (
        'extern template [[host_name("h")]] kernel decltype(t<float>) t<float>;\n'
        'template [[host_name("h")]] kernel decltype(t<float>) t<float>;',
        "h",
    ),
    "specialisation": ('template <> [[host_name("h")]] kernel void t<float>(device float* x) { x[0] = 7; }', "h"),
    "deduced specialisation": ('template <> [[host_name("h")]] kernel void t(device float* x) { x[0] = 7; }', "h"),
    "instantiated specialisation": (
        "template <> kernel void t<float>(device float* x) { x[0] = 7; }\n"
        'template [[host_name("h")]] kernel decltype(t<float>) t<float>;',
        "h",
    ),
    "prototype": (
        "kernel void f(device float*);\n"
        "[[kernel]] void f(device float* x [[buffer(0)]]);\n"
        "kernel void f(device float* x [[buffer(0)]]) { x[0] = 7; }",
        "f",
    ),
    "prototype alone": (
        "kernel void g(device float* x);\nkernel void f(device float* x) { x[0] = 7; }",
        "f",
    ),
    "prototype of a template": (
        "template <typename T> kernel void u(device T* x);\n"
        "template <typename T> kernel void u(device T* x) { x[0] = 7; }\n"
        'template [[host_name("h")]] kernel decltype(u<float>) u<float>;',
        "h",
    ),
    "extern C prototype": (
        'extern "C" kernel void f(device float* x);\nextern "C" kernel void f(device float* x) { x[0] = 7; }',
        "f",
    ),
    "comparison in its template": (
        "template <int N, int M = N < 4 ? 1 : 2> kernel void u() {}\n"
        'template [[host_name("h")]] kernel decltype(u<1>) u<1>;',
        "h",
    ),
    "brackets in its type": (
        "template <int N> kernel metal::enable_if_t<(N > 2), void> u() {}\n"
        'template [[host_name("h")]] kernel decltype(u<3>) u<3>;',
        "h",
    ),
}

# What is not Metal, or too odd for the reader; and the line of the first word that it cannot place.
UNREADABLE = {
    "name in brackets": ("kernel void (f)(device float* x) {}", 1),
    "unknown macro": (
        "\nUNKNOWN(3)\nkernel void f(device float* x) {}",
        3,
    ),
    "unknown macro, attribute": (
        "UNKNOWN(3)\n[[kernel]] void f(device float* x) {}",
        2,
    ),
    "no semicolon": (
        "constant int a = 3\nkernel void f(device float* x) {}",
        2,
    ),
    "no semicolon behind a struct": (
        "struct S { int x; }\nkernel void f(device float* x) {}",
        2,
    ),
    "no semicolon, two kernels": (
        "constant int a = 3\nkernel void f() {}\nkernel void g() {}\nconstant int b = 4;",
        2,
    ),
    "no closing brace": (
        "float f(float a) { return a;\nkernel void g() {}",
        2,
    ),
    "no closing bracket": (
        "float f(float a { return a; }\nkernel void g() {}",
        2,
    ),
    "digraphs": (
        "kernel void f(device float* x) <% x[0] = 1; %>\nkernel void g() {}",
        1,
    ),
    "instantiation of nothing": ("template kernel decltype(u<float>) u<float>;", 1),
    "instantiation of a function": (
        "template <typename T> void u() {}\ntemplate kernel decltype(u<float>) u<float>;",
        2,
    ),
    "variable": ("constant int kernel = 3;", 1),
    "local variable": (
        "void f() {\n  int kernel = 3;\n}",
        2,
    ),
    "member": (
        "struct S {\n  kernel void f() {}\n};",
        2,
    ),
    "parameter": ("kernel void f(constant float* kernel) {}", 1),
    "function try block": ("kernel void f() try {} catch (...) {}", 1),
    "prototype that says more": (
        "kernel void f(device float* x [[buffer(3)]]);\nkernel void f(device float* x) {}",
        1,
    ),
    "prototype with a name": (
        '[[host_name("g")]] kernel void f();\nkernel void f() {}',
        1,
    ),
    "two in one": ("kernel void f(), g();", 1),
    "alone": ("kernel", 1),
}
