"""Functions for the flow engine, as GNU as assembles them and GNU objdump prints them (bytes, then text).

The code lies at RVA 0x1000, pointers of the import table at 0x2000 and 0x2008, constants at 0x2100, a jump table of x64
at 0x2200 and one of x86 at 0x2300, variables at 0x3000. x86 code is at the base 0x82340000. 0x6f706950 is ``Pipo``,
0x72746c41 ``Altr``, 0x7a726554 ``Terz``.
"""

from __future__ import annotations

X64 = {
    "immediate": """
        b9 01 00 00 00              | mov ecx,0x1
        ba 40 00 00 00              | mov edx,0x40
        41 b8 50 69 70 6f           | mov r8d,0x6f706950
        ff 15 ea 0f 00 00           | call qword [rip+0xfea]
        c3                          | ret
    """,
    "conditional_move": """
        b8 50 69 70 6f              | mov eax,0x6f706950
        41 b8 41 6c 74 72           | mov r8d,0x72746c41
        84 c9                       | test cl,cl
        44 0f 45 c0                 | cmovne r8d,eax
        ff 15 e9 0f 00 00           | call qword [rip+0xfe9]
        c3                          | ret
    """,
    "borrow_and_mask": """
        f7 d9                       | neg ecx
        45 19 c0                    | sbb r8d,r8d
        41 81 e0 f1 02 04 03        | and r8d,0x30402f1
        41 81 c0 50 69 70 6f        | add r8d,0x6f706950
        ff 15 e7 0f 00 00           | call qword [rip+0xfe7]
        c3                          | ret
    """,
    "set_and_negate": """
        45 31 c0                    | xor r8d,r8d
        85 c9                       | test ecx,ecx
        41 0f 95 c0                 | setne r8b
        41 f7 d8                    | neg r8d
        41 81 e0 f1 02 04 03        | and r8d,0x30402f1
        41 81 c0 50 69 70 6f        | add r8d,0x6f706950
        ff 15 e0 0f 00 00           | call qword [rip+0xfe0]
        c3                          | ret
    """,
    "set_low_byte": """
        85 c9                       | test ecx,ecx
        0f 95 c0                    | setne al
        0f b6 c0                    | movzx eax,al
        44 8d 80 50 69 70 6f        | lea r8d,[rax+0x6f706950]
        ff 15 eb 0f 00 00           | call qword [rip+0xfeb]
        c3                          | ret
    """,
    "computed": """
        ba 40 69 70 6f              | mov edx,0x6f706940
        44 8d 42 10                 | lea r8d,[rdx+0x10]
        ff 15 f1 0f 00 00           | call qword [rip+0xff1]
        c3                          | ret
    """,
    "bytes_swapped": """
        41 b8 6f 70 69 50           | mov r8d,0x5069706f
        41 0f c8                    | bswap r8d
        ff 15 f1 0f 00 00           | call qword [rip+0xff1]
        c3                          | ret
    """,
    "spilled": """
        53                          | push rbx
        48 83 ec 40                 | sub rsp,0x40
        c7 44 24 30 50 69 70 6f     | mov dword [rsp+0x30],0x6f706950
        b9 07 00 00 00              | mov ecx,0x7
        ff 15 f0 0f 00 00           | call qword [rip+0xff0]
        44 8b 44 24 30              | mov r8d,dword [rsp+0x30]
        ff 15 dd 0f 00 00           | call qword [rip+0xfdd]
        48 83 c4 40                 | add rsp,0x40
        5b                          | pop rbx
        c3                          | ret
    """,
    "kept_in_nonvolatile": """
        53                          | push rbx
        48 83 ec 20                 | sub rsp,0x20
        bb 50 69 70 6f              | mov ebx,0x6f706950
        ff 15 f8 0f 00 00           | call qword [rip+0xff8]
        41 89 d8                    | mov r8d,ebx
        ff 15 e7 0f 00 00           | call qword [rip+0xfe7]
        48 83 c4 20                 | add rsp,0x20
        5b                          | pop rbx
        c3                          | ret
    """,
    "lost_in_volatile": """
        48 83 ec 28                 | sub rsp,0x28
        41 b8 50 69 70 6f           | mov r8d,0x6f706950
        ff 15 f8 0f 00 00           | call qword [rip+0xff8]
        ff 15 ea 0f 00 00           | call qword [rip+0xfea]
        48 83 c4 28                 | add rsp,0x28
        c3                          | ret
    """,
    "escaped": """
        48 83 ec 48                 | sub rsp,0x48
        c7 44 24 30 50 69 70 6f     | mov dword [rsp+0x30],0x6f706950
        48 8d 4c 24 30              | lea rcx,[rsp+0x30]
        ff 15 f1 0f 00 00           | call qword [rip+0xff1]
        44 8b 44 24 30              | mov r8d,dword [rsp+0x30]
        ff 15 de 0f 00 00           | call qword [rip+0xfde]
        48 83 c4 48                 | add rsp,0x48
        c3                          | ret
    """,
    "stack_argument": """
        48 83 ec 48                 | sub rsp,0x48
        c7 44 24 28 50 69 70 6f     | mov dword [rsp+0x28],0x6f706950
        ff 15 ee 0f 00 00           | call qword [rip+0xfee]
        48 83 c4 48                 | add rsp,0x48
        c3                          | ret
    """,
    "vector_store": """
        48 83 ec 48                 | sub rsp,0x48
        0f 28 05 f5 10 00 00        | movaps xmm0,[rip+0x10f5]
        0f 11 44 24 20              | movups [rsp+0x20],xmm0
        ff 15 ea 0f 00 00           | call qword [rip+0xfea]
        48 83 c4 48                 | add rsp,0x48
        c3                          | ret
    """,
    "vector_ymm": """
        48 83 ec 68                 | sub rsp,0x68
        c5 fc 10 05 f4 10 00 00     | vmovups ymm0,[rip+0x10f4]
        c5 fc 11 44 24 20           | vmovups [rsp+0x20],ymm0
        c5 f8 77                    | vzeroupper
        ff 15 e5 0f 00 00           | call qword [rip+0xfe5]
        48 83 c4 68                 | add rsp,0x68
        c3                          | ret
    """,
    "vector_broadcast": """
        48 83 ec 48                 | sub rsp,0x48
        b8 50 69 70 6f              | mov eax,0x6f706950
        66 0f 6e c0                 | movd xmm0,eax
        66 0f 70 c0 00              | pshufd xmm0,xmm0,0x0
        f3 0f 7f 44 24 20           | movdqu [rsp+0x20],xmm0
        ff 15 e2 0f 00 00           | call qword [rip+0xfe2]
        48 83 c4 48                 | add rsp,0x48
        c3                          | ret
    """,
    "vector_built": """
        48 83 ec 48                 | sub rsp,0x48
        b8 50 69 70 6f              | mov eax,0x6f706950
        66 0f 6e c0                 | movd xmm0,eax
        66 0f 6e c9                 | movd xmm1,ecx
        66 0f 62 c8                 | punpckldq xmm1,xmm0
        66 0f d6 4c 24 24           | movq qword [rsp+0x24],xmm1
        ff 15 df 0f 00 00           | call qword [rip+0xfdf]
        48 83 c4 48                 | add rsp,0x48
        c3                          | ret
    """,
    "copied_block": """
        57                          | push rdi
        56                          | push rsi
        48 83 ec 48                 | sub rsp,0x48
        48 8d 35 f3 10 00 00        | lea rsi,[rip+0x10f3]
        48 8d 7c 24 20              | lea rdi,[rsp+0x20]
        b9 04 00 00 00              | mov ecx,0x4
        f3 a5                       | rep movs dword es:[rdi],dword ds:[rsi]
        ff 15 e1 0f 00 00           | call qword [rip+0xfe1]
        48 83 c4 48                 | add rsp,0x48
        5e                          | pop rsi
        5f                          | pop rdi
        c3                          | ret
    """,
    "overwritten_block": """
        57                          | push rdi
        48 83 ec 40                 | sub rsp,0x40
        c7 44 24 28 50 69 70 6f     | mov dword [rsp+0x28],0x6f706950
        48 8d 7c 24 20              | lea rdi,[rsp+0x20]
        31 c0                       | xor eax,eax
        b9 08 00 00 00              | mov ecx,0x8
        f3 ab                       | rep stos dword es:[rdi],eax
        ff 15 df 0f 00 00           | call qword [rip+0xfdf]
        48 83 c4 40                 | add rsp,0x40
        5f                          | pop rdi
        c3                          | ret
    """,
    "loop": """
        53                          | push rbx
        56                          | push rsi
        48 83 ec 28                 | sub rsp,0x28
        be 50 69 70 6f              | mov esi,0x6f706950
        31 db                       | xor ebx,ebx
        41 89 f0                    | mov r8d,esi
        89 da                       | mov edx,ebx
        ff 15 e8 0f 00 00           | call qword [rip+0xfe8]
        ff c3                       | inc ebx
        83 fb 64                    | cmp ebx,0x64
        72 ee                       | jb d
        48 83 c4 28                 | add rsp,0x28
        5e                          | pop rsi
        5b                          | pop rbx
        c3                          | ret
    """,
    "tail_call": """
        89 ca                       | mov edx,ecx
        41 b8 50 69 70 6f           | mov r8d,0x6f706950
        b9 01 00 00 00              | mov ecx,0x1
        ff 25 ed 0f 00 00           | jmp qword [rip+0xfed]
    """,
    "tail_call_stack": """
        c7 44 24 28 50 69 70 6f     | mov dword [rsp+0x28],0x6f706950
        ff 25 f2 0f 00 00           | jmp qword [rip+0xff2]
    """,
    "wrapper": """
        8b 44 24 28                 | mov eax,dword [rsp+0x28]
        41 89 c8                    | mov r8d,ecx
        b9 01 00 00 00              | mov ecx,0x1
        ff 25 ee 0f 00 00           | jmp qword [rip+0xfee]
    """,
    "global": """
        44 8b 05 f9 1f 00 00        | mov r8d,dword [rip+0x1ff9]
        ff 15 f3 0f 00 00           | call qword [rip+0xff3]
        c3                          | ret
    """,
    "constant_global": """
        44 8b 05 01 11 00 00        | mov r8d,dword [rip+0x1101]
        ff 15 f3 0f 00 00           | call qword [rip+0xff3]
        c3                          | ret
    """,
    "function_table": """
        48 83 ec 28                 | sub rsp,0x28
        48 8b 05 f5 1f 00 00        | mov rax,qword [rip+0x1ff5]
        48 8b 0d f6 1f 00 00        | mov rcx,qword [rip+0x1ff6]
        41 b9 50 69 70 6f           | mov r9d,0x6f706950
        ff 90 48 06 00 00           | call qword [rax+0x648]
        48 83 c4 28                 | add rsp,0x28
        c3                          | ret
    """,
    "guarded": """
        48 83 ec 28                 | sub rsp,0x28
        48 8b 05 f5 1f 00 00        | mov rax,qword [rip+0x1ff5]
        48 8b 80 48 06 00 00        | mov rax,qword [rax+0x648]
        41 b9 50 69 70 6f           | mov r9d,0x6f706950
        ff 15 f2 0f 00 00           | call qword [rip+0xff2]
        48 83 c4 28                 | add rsp,0x28
        c3                          | ret
    """,
    "behind_pointer": """
        44 8b 41 18                 | mov r8d,dword [rcx+0x18]
        ff 15 f6 0f 00 00           | call qword [rip+0xff6]
        c3                          | ret
    """,
    "probed_frame": """
        b8 38 12 00 00              | mov eax,0x1238
        e8 19 00 00 00              | call 23
        48 29 c4                    | sub rsp,rax
        c7 44 24 28 50 69 70 6f     | mov dword [rsp+0x28],0x6f706950
        ff 15 e5 0f 00 00           | call qword [rip+0xfe5]
        48 81 c4 38 12 00 00        | add rsp,0x1238
        c3                          | ret
        c3                          | ret
    """,
    "data_between": """
        41 b8 50 69 70 6f           | mov r8d,0x6f706950
        eb 05                       | jmp d
        e8 06 06 0f ff              | call ffffffffff0f0613
        ff 15 ed 0f 00 00           | call qword [rip+0xfed]
        c3                          | ret
    """,
    "handler_behind_return": """
        48 83 ec 48                 | sub rsp,0x48
        ff 15 fe 0f 00 00           | call qword [rip+0xffe]
        48 83 c4 48                 | add rsp,0x48
        c3                          | ret
        c7 44 24 28 50 69 70 6f     | mov dword [rsp+0x28],0x6f706950
        ff 15 e3 0f 00 00           | call qword [rip+0xfe3]
        48 83 c4 48                 | add rsp,0x48
        c3                          | ret
    """,
    "partial_write": """
        41 b8 50 69 70 6f           | mov r8d,0x6f706950
        41 b0 58                    | mov r8b,0x58
        ff 15 f1 0f 00 00           | call qword [rip+0xff1]
        c3                          | ret
    """,
    "unknown_instruction": """
        41 b8 50 69 70 6f           | mov r8d,0x6f706950
        f3 44 0f b8 c1              | popcnt r8d,ecx
        ff 15 ef 0f 00 00           | call qword [rip+0xfef]
        c3                          | ret
    """,
    "switch_relative": """
        48 83 ec 28                 | sub rsp,0x28
        83 f9 02                    | cmp ecx,0x2
        77 2e                       | ja 37
        89 c8                       | mov eax,ecx
        48 8d 15 ee 11 00 00        | lea rdx,[rip+0x11ee]
        48 63 0c 82                 | movsxd rcx,dword [rdx+rax*4]
        48 01 d1                    | add rcx,rdx
        ff e1                       | jmp rcx
        41 b8 50 69 70 6f           | mov r8d,0x6f706950
        eb 0e                       | jmp 31
        41 b8 41 6c 74 72           | mov r8d,0x72746c41
        eb 06                       | jmp 31
        41 b8 54 65 72 7a           | mov r8d,0x7a726554
        ff 15 c9 0f 00 00           | call qword [rip+0xfc9]
        48 83 c4 28                 | add rsp,0x28
        c3                          | ret
    """,
    "switch_unknown": """
        48 83 ec 48                 | sub rsp,0x48
        83 f9 02                    | cmp ecx,0x2
        77 15                       | ja 1e
        49 8b 04 c9                 | mov rax,qword [r9+rcx*8]
        ff e0                       | jmp rax
        cc                          | int3
        c7 44 24 28 50 69 70 6f     | mov dword [rsp+0x28],0x6f706950
        ff 15 e2 0f 00 00           | call qword [rip+0xfe2]
        48 83 c4 48                 | add rsp,0x48
        c3                          | ret
    """,
    "sum_of_parts": """
        41 b8 50 69 00 00           | mov r8d,0x6950
        b8 70 6f 00 00              | mov eax,0x6f70
        c1 e0 10                    | shl eax,0x10
        41 09 c0                    | or r8d,eax
        ff 15 e9 0f 00 00           | call qword [rip+0xfe9]
        c3                          | ret
    """,
    "exchanged": """
        ba 50 69 70 6f              | mov edx,0x6f706950
        41 b8 40 00 00 00           | mov r8d,0x40
        44 87 c2                    | xchg edx,r8d
        ff 15 ec 0f 00 00           | call qword [rip+0xfec]
        c3                          | ret
    """,
    "aligned_frame": """
        55                          | push rbp
        48 89 e5                    | mov rbp,rsp
        48 83 e4 e0                 | and rsp,0xffffffffffffffe0
        48 83 ec 60                 | sub rsp,0x60
        c7 44 24 28 50 69 70 6f     | mov dword [rsp+0x28],0x6f706950
        ff 15 e6 0f 00 00           | call qword [rip+0xfe6]
        48 89 ec                    | mov rsp,rbp
        5d                          | pop rbp
        c3                          | ret
    """,
}
X86 = {
    "pushed": """
        68 50 69 70 6f              | push 0x6f706950
        6a 40                       | push 0x40
        6a 00                       | push 0x0
        ff 15 00 20 34 82           | call dword ds:0x82342000
        c3                          | ret
    """,
    "moved": """
        83 ec 0c                    | sub esp,0xc
        c7 44 24 08 50 69 70 6f     | mov dword [esp+0x8],0x6f706950
        c7 44 24 04 40 00 00 00     | mov dword [esp+0x4],0x40
        c7 04 24 00 00 00 00        | mov dword [esp],0x0
        ff 15 00 20 34 82           | call dword ds:0x82342000
        83 ec 0c                    | sub esp,0xc
        c7 44 24 08 41 6c 74 72     | mov dword [esp+0x8],0x72746c41
        ff 15 00 20 34 82           | call dword ds:0x82342000
        c3                          | ret
    """,
    "nested_internal": """
        55                          | push ebp
        89 e5                       | mov ebp,esp
        68 50 69 70 6f              | push 0x6f706950
        53                          | push ebx
        e8 0b 00 00 00              | call 0x19
        50                          | push eax
        6a 01                       | push 0x1
        ff 15 00 20 34 82           | call dword ds:0x82342000
        5d                          | pop ebp
        c3                          | ret
        8b 44 24 04                 | mov eax,dword [esp+0x4]
        c2 04 00                    | ret 0x4
    """,
    "nested_cdecl": """
        55                          | push ebp
        89 e5                       | mov ebp,esp
        68 50 69 70 6f              | push 0x6f706950
        6a 03                       | push 0x3
        ff 15 08 20 34 82           | call dword ds:0x82342008
        83 c4 04                    | add esp,0x4
        50                          | push eax
        6a 01                       | push 0x1
        ff 15 00 20 34 82           | call dword ds:0x82342000
        5d                          | pop ebp
        c3                          | ret
    """,
    "after_stdcall": """
        56                          | push esi
        6a 05                       | push 0x5
        6a 06                       | push 0x6
        ff 15 08 20 34 82           | call dword ds:0x82342008
        be 50 69 70 6f              | mov esi,0x6f706950
        56                          | push esi
        6a 40                       | push 0x40
        6a 01                       | push 0x1
        ff 15 00 20 34 82           | call dword ds:0x82342000
        5e                          | pop esi
        c2 08 00                    | ret 0x8
    """,
    "frame_slot": """
        55                          | push ebp
        89 e5                       | mov ebp,esp
        83 ec 10                    | sub esp,0x10
        c7 45 f8 50 69 70 6f        | mov dword [ebp-0x8],0x6f706950
        6a 01                       | push 0x1
        ff 15 08 20 34 82           | call dword ds:0x82342008
        ff 75 f8                    | push dword [ebp-0x8]
        6a 40                       | push 0x40
        6a 01                       | push 0x1
        ff 15 00 20 34 82           | call dword ds:0x82342000
        c9                          | leave
        c3                          | ret
    """,
    "wrapper": """
        55                          | push ebp
        89 e5                       | mov ebp,esp
        ff 75 08                    | push dword [ebp+0x8]
        ff 75 0c                    | push dword [ebp+0xc]
        6a 01                       | push 0x1
        ff 15 00 20 34 82           | call dword ds:0x82342000
        5d                          | pop ebp
        c2 08 00                    | ret 0x8
    """,
    "fastcall": """
        ba 50 69 70 6f              | mov edx,0x6f706950
        89 c1                       | mov ecx,eax
        ff 25 00 20 34 82           | jmp dword ds:0x82342000
    """,
    "register_call": """
        56                          | push esi
        8b 35 00 20 34 82           | mov esi,dword ds:0x82342000
        68 50 69 70 6f              | push 0x6f706950
        6a 01                       | push 0x1
        6a 01                       | push 0x1
        ff d6                       | call esi
        68 41 6c 74 72              | push 0x72746c41
        6a 01                       | push 0x1
        6a 01                       | push 0x1
        ff d6                       | call esi
        5e                          | pop esi
        c3                          | ret
    """,
    "frame_helper": """
        6a 10                       | push 0x10
        68 40 20 34 82              | push 0x82342040
        e8 11 00 00 00              | call 0x1d
        68 50 69 70 6f              | push 0x6f706950
        ff 75 08                    | push dword [ebp+0x8]
        6a 01                       | push 0x1
        ff 15 00 20 34 82           | call dword ds:0x82342000
        c3                          | ret
        68 40 20 34 82              | push 0x82342040
        64 ff 35 00 00 00 00        | push dword fs:0x0
        8b 44 24 10                 | mov eax,dword [esp+0x10]
        89 6c 24 10                 | mov dword [esp+0x10],ebp
        8d 6c 24 10                 | lea ebp,[esp+0x10]
        29 c4                       | sub esp,eax
        53                          | push ebx
        56                          | push esi
        57                          | push edi
        ff 75 f8                    | push dword [ebp-0x8]
        c3                          | ret
    """,
    "switch": """
        8b 44 24 04                 | mov eax,dword [esp+0x4]
        83 f8 01                    | cmp eax,0x1
        77 1d                       | ja 0x26
        ff 24 85 00 23 34 82        | jmp dword [eax*4-0x7dcbdd00]
        68 50 69 70 6f              | push 0x6f706950
        eb 05                       | jmp 0x1c
        68 41 6c 74 72              | push 0x72746c41
        6a 01                       | push 0x1
        6a 01                       | push 0x1
        ff 15 00 20 34 82           | call dword ds:0x82342000
        c2 04 00                    | ret 0x4
    """,
    "by_string": """
        57                          | push edi
        83 ec 10                    | sub esp,0x10
        89 e7                       | mov edi,esp
        b8 50 69 70 6f              | mov eax,0x6f706950
        ab                          | stos dword es:[edi],eax
        ab                          | stos dword es:[edi],eax
        ab                          | stos dword es:[edi],eax
        ff 15 00 20 34 82           | call dword ds:0x82342000
        83 c4 10                    | add esp,0x10
        5f                          | pop edi
        c3                          | ret
    """,
}


def code_of(snippet):
    return b"".join(bytes.fromhex(line.partition("|")[0]) for line in snippet.splitlines())
